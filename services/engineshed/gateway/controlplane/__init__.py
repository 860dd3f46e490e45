"""The REST API of the control plane: JSON over HTTP, translated to gRPC and back."""

from engineshed.gateway.controlplane.app import control_plane

__all__ = ["control_plane"]
