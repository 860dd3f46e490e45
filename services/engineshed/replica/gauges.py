"""What Triton's metrics tell of the engine itself, with the names of TensorRT-LLM's back end."""

from dataclasses import dataclass
from typing import Final

from prometheus_client.parser import text_string_to_metric_families

_FAMILIES: Final = "nv_trt_llm_"
_REQUESTS: Final = ("nv_trt_llm_request_metrics", "request_type")
_BLOCKS: Final = ("nv_trt_llm_kv_cache_block_metrics", "kv_cache_block_type")
_GENERAL: Final = ("nv_trt_llm_general_metrics", "general_type")


@dataclass(frozen=True, slots=True)
class Gauges:
    """How an engine is doing; None is what it does not tell."""

    waiting: float | None = None
    """Requests that it has not begun."""
    running: float | None = None
    """Requests that it works on."""
    kv_cache_used: float | None = None
    """The share of its pool of keys and values that is in use, 0 to 1."""
    kv_cache_tokens: int | None = None
    """How many tokens that pool has room for."""
    iteration: float | None = None
    """How many steps it has done; it only grows."""


def read_gauges(text: str) -> Gauges:
    """Return what Triton's page of metrics tells."""
    lines = [line for line in text.splitlines() if line.startswith(_FAMILIES)]
    values = {
        (sample.name, label, kind): sample.value
        for family in text_string_to_metric_families("\n".join(lines) + "\n")
        for sample in family.samples
        for label, kind in sample.labels.items()
    }
    blocks, block_tokens = values.get((*_BLOCKS, "max")), values.get((*_BLOCKS, "tokens_per"))
    return Gauges(
        waiting=values.get((*_REQUESTS, "waiting")),
        running=values.get((*_REQUESTS, "scheduled")),
        kv_cache_used=values.get((*_BLOCKS, "fraction")),
        kv_cache_tokens=int(blocks * block_tokens) if blocks and block_tokens else None,
        iteration=values.get((*_GENERAL, "iteration_counter")),
    )
