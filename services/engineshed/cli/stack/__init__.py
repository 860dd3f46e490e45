"""The whole platform on one machine: its files, its processes, and who keeps them running."""
