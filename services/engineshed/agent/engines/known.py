"""The engine back ends of this release, in the order in which they are preferred."""

from engineshed.agent.engines.interface import EngineBackend
from engineshed.agent.engines.torch.backend import TorchBackend


def known_backends() -> tuple[EngineBackend, ...]:
    """Return all of them; which of them can run on this host, each says itself (`probe`)."""
    return (TorchBackend(),)
