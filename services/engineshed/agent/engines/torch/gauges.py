"""What the engine is doing, as Triton's metrics, by the names that NVIDIA's back end gives them.

So whoever watches a replica need not know which of the two serves it. What this engine does not
know is left out.
"""

import time
from typing import Any, Final

from engineshed.agent.engines.torch.serving import LoadedEngine

_EVERY_SECONDS: Final = 0.2
"""Each gauge that changed is a message to the server's process."""
_REQUESTS: Final = "nv_trt_llm_request_metrics"
_BLOCKS: Final = "nv_trt_llm_kv_cache_block_metrics"
_GENERAL: Final = "nv_trt_llm_general_metrics"
_FAMILIES: Final = {
    _REQUESTS: ("request_type", "Requests, by what they do"),
    _BLOCKS: ("kv_cache_block_type", "Blocks of the cache of keys and values"),
    _GENERAL: ("general_type", "Steps of the decoder"),
}


class Gauges:
    """The gauges of one model. They appear when the engine first tells of itself.

    Args:
        triton: the module that Triton puts into its stub.
        model: its name.
        version: its version.

    """

    def __init__(self, triton: Any, model: str, version: str) -> None:  # noqa: ANN401 - Triton has no types
        self._labels = {"model": model, "version": version}
        self._families = {
            name: triton.MetricFamily(
                name=name, description=description, kind=triton.MetricFamily.GAUGE
            )
            for name, (_, description) in _FAMILIES.items()
        }
        self._metrics: dict[tuple[str, str], Any] = {}
        self._values: dict[tuple[str, str], float] = {}
        self._due = 0.0

    def refresh(self, engine: LoadedEngine) -> None:
        """Set what has changed, unless that was done a moment ago."""
        if time.monotonic() < self._due:
            return
        for key, value in _values(engine).items():
            if self._values.get(key) != value:
                self._metric(*key).set(value)
                self._values[key] = value
        self._due = time.monotonic() + _EVERY_SECONDS

    def _metric(self, family: str, kind: str) -> Any:  # noqa: ANN401 - Triton has no types
        if (family, kind) not in self._metrics:
            label, _ = _FAMILIES[family]
            self._metrics[family, kind] = self._families[family].Metric(
                labels={**self._labels, label: kind}
            )
        return self._metrics[family, kind]


def _values(engine: LoadedEngine) -> dict[tuple[str, str], float]:
    activity = engine.activity
    values: dict[tuple[str, str], float] = {
        (_REQUESTS, "active"): engine.in_flight,
        (_REQUESTS, "max"): engine.manifest.max_concurrent,
        (_REQUESTS, "scheduled"): activity.scheduled,
        (_REQUESTS, "waiting"): activity.waiting,
        (_GENERAL, "iteration_counter"): activity.iterations,
    }
    if cache := activity.cache:
        values |= {
            (_BLOCKS, "max"): cache.blocks,
            (_BLOCKS, "used"): cache.used,
            (_BLOCKS, "free"): cache.blocks - cache.used,
            (_BLOCKS, "tokens_per"): cache.block_tokens,
            (_BLOCKS, "fraction"): cache.used / cache.blocks,
        }
    return values
