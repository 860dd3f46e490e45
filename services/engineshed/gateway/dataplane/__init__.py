"""Inference requests, from the caller to a replica and back: bare ASGI, no framework on the way."""

from engineshed.gateway.dataplane.app import DataPlane

__all__ = ["DataPlane"]
