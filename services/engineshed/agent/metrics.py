"""What an agent measures of its host."""

import shutil
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from engineshed.agent.builds import Builds
from engineshed.agent.connection import SchedulerConnection
from engineshed.agent.engines import shelf
from engineshed.agent.gpus import Gpu
from engineshed.agent.reconciler import Reconciler
from engineshed.api.scheduler.v1.endpoint_service_pb2 import Replica
from engineshed.gpus import usage_of
from engineshed.telemetry import counter, gauge


class AgentMetrics(Collector):
    """The replicas and the engines of one host, and whether its scheduler hears of them."""

    def __init__(
        self, folder: Path, reconciler: Reconciler, builds: Builds, connection: SchedulerConnection
    ) -> None:
        self._folder = folder
        self._reconciler = reconciler
        self._builds = builds
        self._connection = connection

    def collect(self) -> Iterable[Metric]:
        """Return the metrics; it looks at the disk."""
        states = Counter({_name(state): 0 for state in Replica.State.values() if state})
        states.update(map(_name, self._reconciler.states()))
        yield gauge("engineshed_agent_replicas", "Replicas on this host.", states, ("state",))
        yield gauge(
            "engineshed_agent_builds_running",
            "Engines that are being built or checked.",
            self._builds.running,
        )
        yield gauge(
            "engineshed_agent_engine_cache_bytes",
            "Size of the engines on this host.",
            shelf.size(self._builds.root),
        )
        yield counter(
            "engineshed_agent_engine_evictions",
            "Engines that had to go because room was short.",
            self._builds.room.evictions,
        )
        yield counter(
            "engineshed_agent_engine_evicted_bytes",
            "What they came to.",
            self._builds.room.evicted_bytes,
        )
        sharing = self._builds.sharing
        yield counter(
            "engineshed_agent_engine_fetches",
            "Engines looked for in the store that hosts share.",
            sharing.fetches if sharing else {},
            ("outcome",),
        )
        yield counter(
            "engineshed_agent_engine_uploads",
            "Engines brought there.",
            sharing.uploads if sharing else {},
            ("outcome",),
        )
        yield gauge(
            "engineshed_agent_disk_free_bytes",
            "What is free where the agent keeps engines and replicas.",
            shutil.disk_usage(self._folder).free,
        )
        yield gauge(
            "engineshed_agent_status_sent_age_seconds",
            "Since the scheduler was last told how things are here.",
            time.monotonic() - self._connection.told_at,
        )


class GpuMetrics(Collector):
    """The host's GPUs, as their driver sees them: what others do on them counts, too."""

    def __init__(self, gpus: Sequence[Gpu]) -> None:
        self._gpus = gpus

    def collect(self) -> Iterable[Metric]:
        """Return the metrics; it asks the driver. A GPU that does not answer is left out."""
        labels = ("gpu", "uuid")
        seen = [((str(index), gpu.uuid), gpu) for index, gpu in enumerate(self._gpus)]
        used = [(key, usage) for key, gpu in seen if (usage := usage_of(gpu.uuid))]
        yield gauge(
            "engineshed_agent_gpu_memory_bytes",
            "The memory of each GPU that programs may use.",
            [(key, gpu.memory_bytes) for key, gpu in seen],
            labels,
        )
        yield gauge(
            "engineshed_agent_gpu_memory_used_bytes",
            "What of it is in use.",
            [(key, usage.memory_bytes) for key, usage in used],
            labels,
        )
        yield gauge(
            "engineshed_agent_gpu_utilization_ratio",
            "The share of the time in which the GPU computed, 0 to 1.",
            [(key, usage.utilization) for key, usage in used],
            labels,
        )


def _name(state: Replica.State.ValueType) -> str:
    return Replica.State.Name(state).removeprefix("STATE_").lower()
