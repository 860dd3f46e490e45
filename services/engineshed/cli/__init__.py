"""The command line: `shed`."""
