"""The agent: what runs on one GPU host. It fetches, builds, starts, watches and reports."""
