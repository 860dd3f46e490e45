"""Replica: one copy of a model on GPUs of one node; and what it is a copy of.

A deployment is what replicas run. An endpoint that is changed gets a new one, and replicas of
both are there until the change is through.
"""

from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from enum import IntEnum
from typing import Final, TypeAlias, assert_never

from engineshed.api.scheduler.v1 import events_pb2 as pb
from engineshed.api.scheduler.v1.endpoint_service_pb2 import ServingParameters

ReplicaEvent: TypeAlias = (
    pb.ReplicaFetching
    | pb.ReplicaBuilding
    | pb.ReplicaLoading
    | pb.ReplicaReady
    | pb.ReplicaLeaving
    | pb.ReplicaDraining
    | pb.ReplicaStopped
    | pb.ReplicaFailed
    | pb.ReplicaLost
    | pb.ReplicaFound
)


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
    """What is served."""

    checkpoint_id: str
    digest: str  # empty while it is registering
    location: str


@dataclass(frozen=True, slots=True)
class Serving:
    """How the model is served; zero and empty: as the checkpoint says, or the back end likes."""

    max_context: int = 0
    precision: str = ""
    quantization: str = ""
    max_batch_size: int = 0  # requests that the engine works on at once
    max_batch_tokens: int = 0  # tokens that one step of it takes
    kv_cache_fraction: float = 0.0  # of what is free of the GPU once it is loaded

    def message(self) -> ServingParameters:
        """Return it as messages have it."""
        return ServingParameters(
            max_context=self.max_context,
            precision=self.precision,
            quantization=self.quantization,
            max_batch_size=self.max_batch_size,
            max_batch_tokens=self.max_batch_tokens,
            kv_cache_fraction=self.kv_cache_fraction,
        )


# The names of its fields, in messages and events too.
SERVING_FIELDS: Final = tuple(field.name for field in fields(Serving))


def serving_of(message: ServingParameters) -> Serving:
    """Return how a model is served, from how messages have it."""
    return Serving(**{name: getattr(message, name) for name in SERVING_FIELDS})


@dataclass(frozen=True, slots=True)
class Deployment:
    """What replicas run, and on what."""

    number: int  # within the endpoint, from 1
    checkpoint: Checkpoint
    gpu_type: str
    gpu_count: int  # of each replica
    serving: Serving

    def same_as(self, other: "Deployment") -> bool:
        """Whether replicas of both are the same but for the number."""
        return replace(self, number=other.number) == other


@dataclass(frozen=True, slots=True)
class Replica:
    """One copy of the model on GPUs of one node."""

    replica_id: str
    deployment: Deployment
    node_id: str
    gpus: tuple[int, ...]
    capacity: str  # when it was placed; see `Endpoint.capacity_of`
    placed_at: datetime
    changed_at: datetime  # effective time of its last event; no later one is before it
    state: ReplicaState = ReplicaState.PLACED
    reason: str = ""
    leaving: str = ""  # why it is to be replaced; "": it is not
    ready_at: datetime | None = None  # first; None: it never served
    ended_at: datetime | None = None
    engine_digest: str = ""
    engine_backend: str = ""
    engine_kind: str = ""
    url: str = ""

    @property
    def live(self) -> bool:
        """Whether it serves or is on its way there, and its node is heard."""
        return self.state in _LIVE

    @property
    def ready(self) -> bool:
        """Whether it serves."""
        return self.state is ReplicaState.READY

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


def placed(event: pb.ReplicaPlaced, deployment: Deployment, at: datetime) -> Replica:
    """Return the replica whose history begins with `event`, recorded at `at`."""
    return Replica(
        event.replica_id, deployment, event.node_id, tuple(event.gpus), event.capacity, at, at
    )


def evolve_replica(old: Replica, event: ReplicaEvent, at: datetime) -> Replica:
    """Fold one event, recorded at `at`, into the state; never refuses."""
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
                engine_kind=event.engine_kind,
                url=event.url,
            )
        case pb.ReplicaLeaving():
            return replace(replica, leaving=event.reason)
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
