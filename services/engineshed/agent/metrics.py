"""What an agent measures of its host."""

import os
import shutil
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from engineshed.agent.builds import Builds
from engineshed.agent.connection import SchedulerConnection
from engineshed.agent.reconciler import Reconciler
from engineshed.api.scheduler.v1.endpoint_service_pb2 import Replica
from engineshed.telemetry import gauge


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
            _size(self._builds.root),
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


def _name(state: Replica.State.ValueType) -> str:
    return Replica.State.Name(state).removeprefix("STATE_").lower()


def _size(folder: Path) -> int:
    total = 0
    for path, _, names in os.walk(folder):
        for name in names:
            try:
                total += Path(path, name).lstat().st_size
            except FileNotFoundError:
                continue  # it goes while we look
    return total
