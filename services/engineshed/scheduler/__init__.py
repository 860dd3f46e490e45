"""The scheduler: it keeps endpoints and nodes, and decides what runs where."""
