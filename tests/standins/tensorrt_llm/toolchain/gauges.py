"""The metrics of the in-flight batcher, with the names and labels of the real one's."""

from typing import Any, Final

from .executor import Capacity, Statistics

_LABELS: Final = {
    "nv_trt_llm_request_metrics": "request_type",
    "nv_trt_llm_runtime_memory_metrics": "memory_type",
    "nv_trt_llm_kv_cache_block_metrics": "kv_cache_block_type",
    "nv_trt_llm_inflight_batcher_metrics": "inflight_batcher_specific_metric",
    "nv_trt_llm_general_metrics": "general_type",
}


def values(
    statistics: Statistics, capacity: Capacity, gpu_bytes: int
) -> dict[tuple[str, str], float]:
    """Return the value of each gauge, by its family and the value of its label."""
    of_families: dict[str, dict[str, float]] = {
        "nv_trt_llm_request_metrics": {
            "active": statistics.active,
            "max": capacity.requests,
            "scheduled": statistics.scheduled,
            "context": statistics.context,
            "waiting": statistics.active - statistics.scheduled,
        },
        "nv_trt_llm_runtime_memory_metrics": {"cpu": 0, "gpu": gpu_bytes, "pinned": 0},
        "nv_trt_llm_kv_cache_block_metrics": {
            "max": capacity.blocks,
            "free": capacity.blocks - statistics.used_blocks,
            "used": statistics.used_blocks,
            "tokens_per": capacity.tokens_per_block,
            "reused": 0,
            "fraction": statistics.used_blocks / capacity.blocks,
        },
        "nv_trt_llm_inflight_batcher_metrics": {
            "total_context_tokens": statistics.context_tokens,
            "generation_requests": statistics.scheduled - statistics.context,
            "micro_batch_id": 0,
            "paused_requests": 0,
        },
        "nv_trt_llm_general_metrics": {"timestamp": 0, "iteration_counter": statistics.iteration},
    }
    return {
        (family, label): value
        for family, labelled in of_families.items()
        for label, value in labelled.items()
    }


class Gauges:
    """The gauges in Triton's own page of metrics.

    Args:
        triton: Triton's module for models in Python.
        model: the model's name and version, which are labels.

    """

    def __init__(self, triton: Any, model: dict[str, str]) -> None:
        self._families = {
            name: triton.MetricFamily(name=name, description=name, kind=triton.MetricFamily.GAUGE)
            for name in _LABELS
        }
        self._model = model
        self._gauges: dict[tuple[str, str], Any] = {}

    def show(self, shown: dict[tuple[str, str], float]) -> None:
        """Set the gauges."""
        for (family, label), value in shown.items():
            if (family, label) not in self._gauges:
                labels = self._model | {_LABELS[family]: label}
                self._gauges[family, label] = self._families[family].Metric(labels=labels)
            self._gauges[family, label].set(value)
