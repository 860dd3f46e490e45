"""What NVIDIA's driver says of a replica's GPUs."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import structlog
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from engineshed.gpus import Usage, open_driver, usage_of
from engineshed.telemetry import gauge

_PATIENCE_SECONDS: Final = 2.0

log: Final[structlog.stdlib.BoundLogger] = structlog.get_logger()


class GpuMetrics(Collector):
    """The GPUs that a replica was given, as the driver saw them last."""

    def __init__(self, visible: str) -> None:
        """Know the GPUs by `visible`, which is what CUDA_VISIBLE_DEVICES says: their UUIDs."""
        self._uuids = [uuid for uuid in visible.split(",") if uuid.startswith("GPU-")]
        self._opened = False
        # One of its own: a driver that hangs must not take threads that requests need.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="gpus")
        self._seen: Sequence[tuple[tuple[str, str], Usage]] = ()

    async def look(self) -> None:
        """Ask the driver. GPUs that do not answer are left out, as all are where none is."""
        if not self._uuids:
            return
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                loop = asyncio.get_running_loop()
                self._seen = await loop.run_in_executor(self._thread, self._ask)
        except TimeoutError:
            log.warning("gpu_driver_hangs")
            self._seen = ()

    def collect(self) -> list[Metric]:
        """Return the metrics; of what was not seen there are none."""
        seen, labels = self._seen, ("gpu", "uuid")
        if not seen:
            return []
        return [
            gauge(
                "engineshed_replica_gpu_memory_bytes",
                "The memory of each of the replica's GPUs that programs may use.",
                [(key, usage.usable_bytes) for key, usage in seen],
                labels,
            ),
            gauge(
                "engineshed_replica_gpu_memory_used_bytes",
                "What of it is in use.",
                [(key, usage.memory_bytes) for key, usage in seen],
                labels,
            ),
            gauge(
                "engineshed_replica_gpu_utilization_ratio",
                "The share of the time in which the GPU computed, 0 to 1.",
                [(key, usage.utilization) for key, usage in seen],
                labels,
            ),
        ]

    def _ask(self) -> list[tuple[tuple[str, str], Usage]]:
        """Return the GPUs that answer, each by its number and its UUID."""
        self._opened = self._opened or open_driver()
        if not self._opened:
            return []
        return [
            ((str(number), uuid), usage)
            for number, uuid in enumerate(self._uuids)
            if (usage := usage_of(uuid))
        ]
