"""What the agent decides, as pure functions: no I/O, no clock."""
