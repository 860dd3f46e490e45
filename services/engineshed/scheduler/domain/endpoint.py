"""Endpoint: one checkpoint, served by replicas on GPUs that are reserved for it.

The state, and how recorded events make it. What a command may add is in `decide.py`.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import IntEnum
from typing import Final, TypeAlias, assert_never

from engineshed.api.scheduler.v1 import events_pb2 as pb
from engineshed.scheduler.domain import failure
from engineshed.scheduler.domain.failure import Failure

# How long ended replicas are shown.
ENDED_SHOWN: Final = timedelta(minutes=10)

WAITING_TO_BE_PLACED: Final = "waiting to be placed"

EndpointEvent: TypeAlias = (
    pb.EndpointCreated
    | pb.EndpointCheckpointReady
    | pb.EndpointRenamed
    | pb.EndpointScaled
    | pb.EndpointQueued
    | pb.EndpointProvisioning
    | pb.EndpointRunning
    | pb.EndpointStopping
    | pb.EndpointStopped
    | pb.EndpointRestarted
    | pb.EndpointFailed
    | pb.EndpointTerminated
    | pb.ReplicaPlaced
    | pb.ReplicaFetching
    | pb.ReplicaBuilding
    | pb.ReplicaLoading
    | pb.ReplicaReady
    | pb.ReplicaDraining
    | pb.ReplicaStopped
    | pb.ReplicaFailed
    | pb.ReplicaLost
    | pb.ReplicaFound
)


class EndpointState(IntEnum):
    """Where an endpoint is in its life; the numbers are those of `Endpoint.State`."""

    QUEUED = 1
    PROVISIONING = 2
    RUNNING = 3
    IDLE = 4
    STOPPING = 5
    STOPPED = 6
    FAILED = 7
    TERMINATED = 8


class ReplicaState(IntEnum):
    """Where a replica is in its life; the numbers are those of `Replica.State`.

    They grow from PLACED to READY, so that a later one is further.
    """

    PLACED = 1
    FETCHING = 2
    BUILDING = 3
    LOADING = 4
    READY = 5
    DRAINING = 6
    STOPPED = 7
    FAILED = 8
    LOST = 9


_LIVE: Final = range(ReplicaState.PLACED, ReplicaState.READY + 1)
_ENDED: Final = (ReplicaState.STOPPED, ReplicaState.FAILED)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What an endpoint serves."""

    checkpoint_id: str
    digest: str  # empty while it is registering
    location: str


@dataclass(frozen=True, slots=True)
class Scaling:
    """How many replicas an endpoint has."""

    min_replicas: int
    max_replicas: int


@dataclass(frozen=True, slots=True)
class Serving:
    """How the model is served; zero and empty mean as the checkpoint says."""

    max_context: int = 0
    precision: str = ""
    quantization: str = ""


@dataclass(frozen=True, slots=True)
class Status:
    """What an endpoint's owner sees of its life."""

    state: EndpointState
    reason: str = ""
    degraded: bool = False


@dataclass(frozen=True, slots=True)
class Replica:
    """One copy of the model on GPUs of one node."""

    replica_id: str
    node_id: str
    gpus: tuple[int, ...]
    capacity: str
    placed_at: datetime
    changed_at: datetime  # effective time of its last event; no later one is before it
    state: ReplicaState = ReplicaState.PLACED
    reason: str = ""
    ready_at: datetime | None = None  # first; None: it never served
    ended_at: datetime | None = None
    engine_digest: str = ""
    engine_backend: str = ""
    url: str = ""

    @property
    def live(self) -> bool:
        """Whether it serves or is on its way there, and its node is heard."""
        return self.state in _LIVE

    @property
    def ended(self) -> bool:
        """Whether its processes are gone; until then its GPUs are taken."""
        return self.state in _ENDED

    @property
    def routable(self) -> bool:
        """Whether it may get requests: ready, or unheard since it was ready."""
        return self.state is ReplicaState.READY or (
            self.state is ReplicaState.LOST and self.ready_at is not None
        )


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An endpoint with its replicas, in the order in which they were placed."""

    endpoint_id: str
    org_id: str
    name: str
    description: str
    model_name: str
    flavor_name: str
    checkpoint: Checkpoint
    gpu_type: str
    gpu_count: int
    region: str
    scaling: Scaling
    serving: Serving
    routing_key: str
    created_at: datetime
    updated_at: datetime
    arrived_at: datetime  # since when it stands in the queue, when it waits
    revision: int  # events in its stream
    version: int = 1  # changes of what its owner specified
    enabled: bool = True
    status: Status = Status(EndpointState.QUEUED, WAITING_TO_BE_PLACED)
    replicas: tuple[Replica, ...] = ()
    ever_ready: bool = False
    failures: tuple[Failure, ...] = ()  # in a row

    @property
    def etag(self) -> str:
        """What guards an update; it changes with `version`."""
        return f"v{self.version}"

    @property
    def ended(self) -> bool:
        """Whether it can never serve again."""
        return self.status.state in (EndpointState.FAILED, EndpointState.TERMINATED)

    @property
    def wanted(self) -> int:
        """How many replicas should run."""
        return self.scaling.min_replicas if self.enabled and not self.ended else 0

    @property
    def missing(self) -> int:
        """How many replicas still have to be placed."""
        if not self.checkpoint.digest:
            return 0
        return max(0, self.wanted - sum(replica.live for replica in self.replicas))

    @property
    def ready(self) -> int:
        """How many replicas are ready."""
        return sum(replica.state is ReplicaState.READY for replica in self.replicas)

    @property
    def retry_at(self) -> datetime | None:
        """When the next replica may be placed; None: at once."""
        return failure.retry_at(self.failures)

    @property
    def holds_gpus(self) -> bool:
        """Whether any replica's GPUs are still taken."""
        return any(True for _ in self.occupying())

    def occupying(self) -> Iterator[Replica]:
        """Yield the replicas whose GPUs are taken."""
        return (replica for replica in self.replicas if not replica.ended)

    def replica(self, replica_id: str) -> Replica | None:
        """Return a replica; None when it is not known (any more)."""
        return next((item for item in self.replicas if item.replica_id == replica_id), None)


def evolve(state: Endpoint | None, event: EndpointEvent, at: datetime) -> Endpoint:
    """Fold one event, recorded at `at`, into the state; never refuses."""
    if isinstance(event, pb.EndpointCreated):
        return _created(event, at)
    assert state is not None, "an endpoint's stream starts with EndpointCreated"
    state = replace(state, updated_at=at, revision=state.revision + 1)
    match event:
        case pb.EndpointCheckpointReady():
            return replace(state, checkpoint=_checkpoint(event.checkpoint))
        case pb.EndpointQueued():
            return replace(state, status=Status(EndpointState.QUEUED, event.reason))
        case pb.EndpointProvisioning():
            return replace(state, status=Status(EndpointState.PROVISIONING, event.reason))
        case pb.EndpointRunning():
            status = Status(EndpointState.RUNNING, degraded=event.degraded)
            return replace(state, status=status)
        case pb.EndpointStopped():
            return replace(state, status=Status(EndpointState.STOPPED))
        case pb.EndpointFailed():
            reason = f"{event.code}: {event.reason}"
            return replace(state, status=Status(EndpointState.FAILED, reason))
        case (
            pb.EndpointRenamed()
            | pb.EndpointScaled()
            | pb.EndpointStopping()
            | pb.EndpointRestarted()
            | pb.EndpointTerminated()
        ):
            return _respecified(replace(state, version=state.version + 1), event, at)
        case pb.ReplicaPlaced():
            return replace(state, replicas=(*_shown(state, at), _placed(event, at)))
        case _:
            return _replica_changed(state, event, at)


def _created(event: pb.EndpointCreated, at: datetime) -> Endpoint:
    return Endpoint(
        endpoint_id=event.endpoint_id,
        org_id=event.org_id,
        name=event.name,
        description=event.description,
        model_name=event.model_name,
        flavor_name=event.flavor_name,
        checkpoint=_checkpoint(event.checkpoint),
        gpu_type=event.gpu_type,
        gpu_count=event.gpu_count,
        region=event.region,
        scaling=Scaling(event.scaling.min_replicas, event.scaling.max_replicas),
        serving=Serving(
            event.serving.max_context, event.serving.precision, event.serving.quantization
        ),
        routing_key=event.routing_key,
        created_at=at,
        updated_at=at,
        arrived_at=at,
        revision=1,
    )


def _respecified(
    state: Endpoint,
    event: (
        pb.EndpointRenamed
        | pb.EndpointScaled
        | pb.EndpointStopping
        | pb.EndpointRestarted
        | pb.EndpointTerminated
    ),
    at: datetime,
) -> Endpoint:
    """Fold what the owner asked for."""
    match event:
        case pb.EndpointRenamed():
            return replace(state, name=event.name, description=event.description)
        case pb.EndpointScaled():
            scaling = Scaling(event.scaling.min_replicas, event.scaling.max_replicas)
            # What it needs more arrives now; what it waits for already keeps its place.
            grown = state.missing == 0 and scaling.min_replicas > state.scaling.min_replicas
            arrived_at = at if grown else state.arrived_at
            return replace(state, scaling=scaling, arrived_at=arrived_at)
        case pb.EndpointStopping():
            return replace(state, enabled=False, status=Status(EndpointState.STOPPING))
        case pb.EndpointRestarted():
            status = Status(EndpointState.QUEUED, WAITING_TO_BE_PLACED)
            return replace(state, enabled=True, status=status, failures=(), arrived_at=at)
        case pb.EndpointTerminated():
            return replace(state, enabled=False, status=Status(EndpointState.TERMINATED))
        case _:
            assert_never(event)


_ReplicaEvent: TypeAlias = (
    pb.ReplicaFetching
    | pb.ReplicaBuilding
    | pb.ReplicaLoading
    | pb.ReplicaReady
    | pb.ReplicaDraining
    | pb.ReplicaStopped
    | pb.ReplicaFailed
    | pb.ReplicaLost
    | pb.ReplicaFound
)


def _replica_changed(state: Endpoint, event: _ReplicaEvent, at: datetime) -> Endpoint:
    old = state.replica(event.replica_id)
    assert old is not None, "an endpoint's stream places a replica before it changes it"
    new = _evolve_replica(old, event, at)
    state = replace(
        state,
        replicas=tuple(new if item is old else item for item in _shown(state, at)),
        ever_ready=state.ever_ready or new.ready_at is not None,
    )
    if isinstance(event, pb.ReplicaFailed) and old.state is not ReplicaState.DRAINING:
        early = failure.is_early(old.ready_at, new.changed_at)
        failed = Failure(
            old.placed_at, new.changed_at, old.node_id, event.code, event.reason, early
        )
        state = replace(state, failures=failure.row_after(state.failures, failed))
    return state


def _evolve_replica(old: Replica, event: _ReplicaEvent, at: datetime) -> Replica:
    effective_at = event.effective_at.ToDatetime(tzinfo=UTC)
    replica = replace(old, changed_at=effective_at)
    match event:
        case pb.ReplicaFetching():
            return replace(replica, state=ReplicaState.FETCHING)
        case pb.ReplicaBuilding():
            return replace(replica, state=ReplicaState.BUILDING)
        case pb.ReplicaLoading():
            return replace(replica, state=ReplicaState.LOADING)
        case pb.ReplicaReady():
            return replace(
                replica,
                state=ReplicaState.READY,
                ready_at=effective_at,
                engine_digest=event.engine_digest,
                engine_backend=event.engine_backend,
                url=event.url,
            )
        case pb.ReplicaDraining():
            return replace(replica, state=ReplicaState.DRAINING, reason=event.reason)
        case pb.ReplicaStopped():
            return replace(replica, state=ReplicaState.STOPPED, ended_at=at)
        case pb.ReplicaFailed():
            reason = f"{event.code}: {event.reason}"
            return replace(replica, state=ReplicaState.FAILED, reason=reason, ended_at=at)
        case pb.ReplicaLost():
            return replace(replica, state=ReplicaState.LOST)
        case pb.ReplicaFound():
            return replace(replica, state=ReplicaState.READY)
        case _:
            assert_never(event)


def _placed(event: pb.ReplicaPlaced, at: datetime) -> Replica:
    return Replica(event.replica_id, event.node_id, tuple(event.gpus), event.capacity, at, at)


def _checkpoint(served: pb.ServedCheckpoint) -> Checkpoint:
    return Checkpoint(served.checkpoint_id, served.digest, served.location)


def _shown(state: Endpoint, at: datetime) -> tuple[Replica, ...]:
    """Return the replicas without those that ended too long ago to be shown."""
    return tuple(
        replica
        for replica in state.replicas
        if replica.ended_at is None or at - replica.ended_at <= ENDED_SHOWN
    )
