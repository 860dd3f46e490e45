"""Which engine back ends can serve what."""

from collections.abc import Set
from typing import Final

from engineshed.scheduler.domain.replica import Serving

TENSORRT_LLM: Final = "tensorrt_llm"
TORCH: Final = "torch"

ANY: Final = frozenset({TENSORRT_LLM, TORCH})
QUANTIZING: Final = frozenset({TENSORRT_LLM})


def fitting(serving: Serving) -> frozenset[str]:
    """Return the back ends that can serve a model so; a node needs one of them."""
    return QUANTIZING if serving.quantization else ANY


def can_serve(backends: Set[str], serving: Serving) -> bool:
    """Tell whether a node with these back ends can serve a model so."""
    return not backends.isdisjoint(fitting(serving))
