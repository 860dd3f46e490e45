"""The way in: a REST control plane, and an OpenAI data plane that routes to replicas."""
