"""What the catalog decides, as pure functions: `decide(state, command)`, `evolve(state, event)`."""
