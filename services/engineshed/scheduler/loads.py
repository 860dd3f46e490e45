"""The loads of endpoints: noted when agents tell them, taken when decisions are made."""

from collections.abc import Collection, Iterator
from datetime import datetime, timedelta
from typing import Final

from engineshed.api.agent.v1.agent_service_pb2 import NodeStatus, ReplicaStatus
from engineshed.scheduler.domain.endpoint import Endpoint
from engineshed.scheduler.domain.load import Load, Signals
from engineshed.scheduler.domain.load_history import LoadHistory, Windows
from engineshed.scheduler.domain.replica import Replica, ReplicaState
from engineshed.scheduler.domain.view import QueueKey, View

# How often it is looked at what could be reclaimed, and at who runs nothing any more.
_LOOK: Final = timedelta(seconds=0.5)
_TIDY: Final = timedelta(minutes=1)


class Loads:
    """What all replicas say of their requests."""

    def __init__(self, view: View, windows: Windows) -> None:
        self._view = view
        self._history = LoadHistory(windows)
        self._noted: set[str] = set()  # endpoints whose load was told since the last plan
        self._idle: dict[QueueKey, set[str]] = {}  # what could be reclaimed, when last looked at
        self._looked_at: datetime | None = None
        self._tidied_at: datetime | None = None

    def note(self, node_id: str, status: NodeStatus, now: datetime) -> None:
        """Note what an agent tells of its replicas."""
        for said in status.replicas:
            endpoint_id = self._view.endpoint_on(node_id, said.replica_id)
            if endpoint_id is None or ReplicaState(said.state) is not ReplicaState.READY:
                continue
            endpoint = self._view.endpoints[endpoint_id]
            replica = endpoint.replica(said.replica_id)
            if replica is not None:
                self._note(endpoint, replica, said, now)

    def load_of(self, endpoint: Endpoint, now: datetime) -> Load | None:
        """Return the load of an endpoint; None when it is not known, or decides nothing."""
        return self._history.load_of(endpoint, now) if endpoint.elastic else None

    def reclaimable(self, now: datetime) -> set[QueueKey]:
        """Return the queues in which somebody waits and more replicas than before could go."""
        if not _due(self._looked_at, _LOOK, now):
            return set()
        self._looked_at = now
        found: set[QueueKey] = set()
        idle: dict[QueueKey, set[str]] = {}
        for key in self._view.queues:
            idle[key] = self._idle_of(key, now)
            if idle[key] - self._idle.get(key, set()):
                found.add(key)
        self._idle = idle
        return found

    def idle(self, now: datetime) -> frozenset[str]:
        """Return all replicas that could be reclaimed, whether somebody waits for it or not."""
        inventories = (node.inventory for node in self._view.nodes.values())
        keys = {QueueKey(one.region, one.gpu_type) for one in inventories}
        return frozenset().union(*(self._idle_of(key, now) for key in keys))

    def take(self, queues: Collection[QueueKey], now: datetime) -> Signals:
        """Return the signals for a plan of these queues, and of loads told since the last one."""
        self._tidy(now)
        noted, self._noted = sorted(self._noted), set()
        idle = (self._idle.get(key, set()) for key in queues)
        return Signals(loads=dict(self._known(noted, now)), idle=frozenset().union(*idle))

    def _known(self, endpoint_ids: Collection[str], now: datetime) -> Iterator[tuple[str, Load]]:
        for endpoint_id in endpoint_ids:
            endpoint = self._view.endpoints.get(endpoint_id)
            if endpoint is None or not endpoint.wanted:
                continue
            if (load := self.load_of(endpoint, now)) is not None:
                yield endpoint_id, load

    def _tidy(self, now: datetime) -> None:
        """Forget those that were stopped or ended, or are idle."""
        if not _due(self._tidied_at, _TIDY, now):
            return
        self._tidied_at = now
        for endpoint_id in self._history.endpoint_ids:
            endpoint = self._view.endpoints.get(endpoint_id)
            if endpoint is None or not endpoint.wanted:
                self._history.forget(endpoint_id)

    def _note(
        self, endpoint: Endpoint, replica: Replica, said: ReplicaStatus, now: datetime
    ) -> None:
        idle_for = said.idle_age.ToTimedelta() if said.HasField("idle_age") else None
        self._history.note(endpoint, replica, said.in_flight_seconds, idle_for, now)
        if endpoint.elastic:
            self._noted.add(endpoint.endpoint_id)

    def _idle_of(self, key: QueueKey, now: datetime) -> set[str]:
        replicas = (
            (endpoint.endpoint_id, replica) for endpoint, replica in self._view.opportunistic(key)
        )
        return self._history.idle(replicas, now)


def _due(last: datetime | None, every: timedelta, now: datetime) -> bool:
    """Tell whether it is time again; it is, too, when the clock was put back."""
    return last is None or not timedelta(0) <= now - last < every
