"""Endpoint: one checkpoint, served by replicas on GPUs that are reserved for it.

The state, and how recorded events make it. What a command may add is in `decide.py`.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import IntEnum
from typing import Final, TypeAlias, assert_never

from engineshed.api.scheduler.v1 import events_pb2 as pb
from engineshed.scheduler.domain import failure
from engineshed.scheduler.domain.failure import Failure
from engineshed.scheduler.domain.replica import (
    Checkpoint,
    Deployment,
    Replica,
    ReplicaEvent,
    ReplicaState,
    Serving,
    evolve_replica,
    placed,
)

# How long ended replicas are shown.
ENDED_SHOWN: Final = timedelta(minutes=10)

# How many replicas more than wanted there may be while some are replaced.
SURGE: Final = 1

WAITING_TO_BE_PLACED: Final = "waiting to be placed"

EndpointEvent: TypeAlias = (
    pb.EndpointCreated
    | pb.EndpointCheckpointReady
    | pb.EndpointRenamed
    | pb.EndpointScaled
    | pb.EndpointRedeployed
    | pb.EndpointRolledBack
    | pb.EndpointRolledOut
    | pb.EndpointRolloutFailed
    | pb.EndpointQueued
    | pb.EndpointProvisioning
    | pb.EndpointRunning
    | pb.EndpointStopping
    | pb.EndpointStopped
    | pb.EndpointRestarted
    | pb.EndpointFailed
    | pb.EndpointTerminated
    | pb.ReplicaPlaced
    | ReplicaEvent
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


class Strategy(IntEnum):
    """How replicas of a new deployment take the place of old ones; as in `UpdateStrategy`."""

    SURGE = 1
    RECREATE = 2


@dataclass(frozen=True, slots=True)
class Scaling:
    """How many replicas an endpoint has."""

    min_replicas: int
    max_replicas: int


@dataclass(frozen=True, slots=True)
class Status:
    """What an endpoint's owner sees of its life."""

    state: EndpointState
    reason: str = ""
    degraded: bool = False


@dataclass(frozen=True, slots=True)
class Rollout:
    """A change of deployment that is under way, or failed."""

    previous: Deployment  # what it falls back to
    strategy: Strategy
    started_at: datetime
    failure: str = ""  # why it failed; "": it is under way


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An endpoint with its replicas, in the order in which they were placed."""

    endpoint_id: str
    org_id: str
    name: str
    description: str
    model_name: str
    flavor_name: str
    deployment: Deployment  # what its replicas should run
    region: str
    scaling: Scaling
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
    failures: tuple[Failure, ...] = ()  # in a row, of what is being placed
    rollout: Rollout | None = None
    deployments: int = 1  # numbers given out so far

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
    def checkpoint(self) -> Checkpoint:
        """What it should serve."""
        return self.deployment.checkpoint

    @property
    def gpu_type(self) -> str:
        """The kind of GPU that it should have."""
        return self.deployment.gpu_type

    @property
    def gpu_count(self) -> int:
        """How many GPUs each of its replicas should have."""
        return self.deployment.gpu_count

    @property
    def serving(self) -> Serving:
        """How its model should be served."""
        return self.deployment.serving

    @property
    def placing(self) -> Deployment:
        """What the next replica runs: after a failed rollout, what was there before."""
        if self.rollout is not None and self.rollout.failure:
            return self.rollout.previous
        return self.deployment

    def current(self, replica: Replica) -> bool:
        """Tell whether a replica may stay, and is not one that is to be replaced."""
        if replica.leaving:
            return False
        number = replica.deployment.number
        # A rollout that failed takes nothing away that serves.
        return number == self.placing.number or (
            number == self.deployment.number and replica.routable
        )

    @property
    def missing(self) -> int:
        """How many replicas are to be placed now.

        Replacements come one at a time: one more replica than wanted, until it is ready.
        """
        if not self.placing.checkpoint.digest:
            return 0
        live = [replica for replica in self.replicas if replica.live]
        gap = self.wanted - sum(map(self.current, live))
        return max(0, min(gap, self.wanted + SURGE - len(live)))

    @property
    def ready(self) -> int:
        """How many replicas are ready."""
        return sum(replica.ready for replica in self.replicas)

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
            checkpoint = _checkpoint(event.checkpoint)
            return replace(state, deployment=replace(state.deployment, checkpoint=checkpoint))
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
            | pb.EndpointRedeployed()
            | pb.EndpointRolledBack()
            | pb.EndpointStopping()
            | pb.EndpointRestarted()
            | pb.EndpointTerminated()
        ):
            return _respecified(replace(state, version=state.version + 1), event, at)
        case pb.EndpointRolledOut():
            return replace(state, rollout=None)
        case pb.EndpointRolloutFailed():
            assert state.rollout is not None, "what fails has begun"
            rollout = replace(state.rollout, failure=f"{event.code}: {event.reason}")
            return replace(state, rollout=rollout, failures=())
        case pb.ReplicaPlaced():
            replica = placed(event, _deployment(state, event.deployment or 1), at)
            return replace(state, replicas=(*_shown(state, at), replica))
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
        deployment=_specified(event, number=1),
        region=event.region,
        scaling=Scaling(event.scaling.min_replicas, event.scaling.max_replicas),
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
        | pb.EndpointRedeployed
        | pb.EndpointRolledBack
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
        case pb.EndpointRedeployed():
            return _redeployed(state, event, at)
        case pb.EndpointRolledBack():
            assert state.rollout is not None, "only a rollout is rolled back"
            return _deploying(replace(state, rollout=None), state.rollout.previous, at)
        case pb.EndpointStopping():
            return replace(state, enabled=False, status=Status(EndpointState.STOPPING))
        case pb.EndpointRestarted():
            status = Status(EndpointState.QUEUED, WAITING_TO_BE_PLACED)
            return replace(state, enabled=True, status=status, failures=(), arrived_at=at)
        case pb.EndpointTerminated():
            return replace(state, enabled=False, status=Status(EndpointState.TERMINATED))
        case _:
            assert_never(event)


def _redeployed(state: Endpoint, event: pb.EndpointRedeployed, at: datetime) -> Endpoint:
    """Fold a new deployment; while something serves, that is what it falls back to."""
    previous = state.rollout.previous if state.rollout else state.deployment
    serves = state.rollout is not None or any(replica.routable for replica in state.replicas)
    strategy = Strategy(event.strategy or Strategy.SURGE)
    state = replace(
        state,
        rollout=Rollout(previous, strategy, at) if serves else None,
        deployments=event.deployment,
    )
    return _deploying(state, _specified(event, event.deployment), at)


def _deploying(state: Endpoint, deployment: Deployment, at: datetime) -> Endpoint:
    """Fold what is to run; whoever waits already keeps its place, unless in another queue."""
    waits = state.missing > 0 and state.placing.gpu_type == deployment.gpu_type
    arrived_at = state.arrived_at if waits else at
    return replace(state, deployment=deployment, failures=(), arrived_at=arrived_at)


def _replica_changed(state: Endpoint, event: ReplicaEvent, at: datetime) -> Endpoint:
    old = state.replica(event.replica_id)
    assert old is not None, "an endpoint's stream places a replica before it changes it"
    new = evolve_replica(old, event, at)
    state = replace(
        state,
        replicas=tuple(new if item is old else item for item in _shown(state, at)),
        ever_ready=state.ever_ready or new.ready_at is not None,
    )
    counts = old.deployment.number == state.placing.number and not old.leaving
    if isinstance(event, pb.ReplicaFailed) and old.state is not ReplicaState.DRAINING and counts:
        early = failure.is_early(old.ready_at, new.changed_at)
        failed = Failure(
            old.placed_at, new.changed_at, old.node_id, event.code, event.reason, early
        )
        state = replace(state, failures=failure.row_after(state.failures, failed))
    return state


def _specified(event: pb.EndpointCreated | pb.EndpointRedeployed, number: int) -> Deployment:
    serving = event.serving
    return Deployment(
        number,
        _checkpoint(event.checkpoint),
        event.gpu_type,
        event.gpu_count,
        Serving(serving.max_context, serving.precision, serving.quantization),
    )


def _deployment(state: Endpoint, number: int) -> Deployment:
    if state.rollout is not None and state.rollout.previous.number == number:
        return state.rollout.previous
    assert state.deployment.number == number, "what is placed is the present or the one before"
    return state.deployment


def _checkpoint(served: pb.ServedCheckpoint) -> Checkpoint:
    return Checkpoint(served.checkpoint_id, served.digest, served.location)


def _shown(state: Endpoint, at: datetime) -> tuple[Replica, ...]:
    """Return the replicas without those that ended too long ago to be shown."""
    return tuple(
        replica
        for replica in state.replicas
        if replica.ended_at is None or at - replica.ended_at <= ENDED_SHOWN
    )
