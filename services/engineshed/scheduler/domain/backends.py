"""Which engine back ends can serve what."""

from collections.abc import Set
from typing import Final

from engineshed.scheduler.domain.replica import Serving

_BUILT_IN: Final = ("quantization", "max_batch_tokens")

TENSORRT_LLM: Final = "tensorrt_llm"
TORCH: Final = "torch"

# The one that agents take first, where both can serve a model, comes first.
PREFERRED: Final = (TENSORRT_LLM, TORCH)

ANY: Final = frozenset(PREFERRED)
BUILDING: Final = frozenset({TENSORRT_LLM})


def needs_building(serving: Serving) -> str:
    """Return which parameter only a back end takes that builds engines for it; "": none does."""
    return next((name for name in _BUILT_IN if getattr(serving, name)), "")


def fitting(serving: Serving) -> frozenset[str]:
    """Return the back ends that can serve a model so; a node needs one of them."""
    return BUILDING if needs_building(serving) else ANY


def can_serve(backends: Set[str], serving: Serving) -> bool:
    """Tell whether a node with these back ends can serve a model so."""
    return not backends.isdisjoint(fitting(serving))
