"""What endpoints and nodes are and how they change: pure code, no I/O, no clock, no randomness."""
