"""How recorded events make an endpoint."""

from dataclasses import replace
from datetime import datetime
from typing import assert_never

from engineshed.api.scheduler.v1 import events_pb2 as pb
from engineshed.scheduler.domain import failure
from engineshed.scheduler.domain.endpoint import (
    ENDED_SHOWN,
    WAITING_TO_BE_PLACED,
    Endpoint,
    EndpointEvent,
    EndpointState,
    Rollout,
    Status,
    Strategy,
)
from engineshed.scheduler.domain.failure import Failure
from engineshed.scheduler.domain.replica import (
    Checkpoint,
    Deployment,
    Replica,
    ReplicaEvent,
    ReplicaState,
    evolve_replica,
    placed,
    serving_of,
)
from engineshed.scheduler.domain.scaling import Autoscaling, Scaling, scaling_of


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
        case pb.EndpointAutoscaled():
            return _autoscaled(state, Autoscaling(event.replicas, event.why, at), at)
        case pb.EndpointWoken():
            return replace(_autoscaled(state, Autoscaling(1), at), failures=())
        case pb.EndpointIdle():
            return replace(state, status=Status(EndpointState.IDLE))
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
    scaling = scaling_of(event.scaling)
    return Endpoint(
        endpoint_id=event.endpoint_id,
        org_id=event.org_id,
        name=event.name,
        description=event.description,
        model_name=event.model_name,
        flavor_name=event.flavor_name,
        deployment=_specified(event, number=1),
        region=event.region,
        scaling=scaling,
        autoscaling=Autoscaling(scaling.min_replicas),
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
            scaling = scaling_of(event.scaling)
            replicas = _within(scaling, state)
            if replicas != state.autoscaling.replicas:
                state = _autoscaled(state, Autoscaling(replicas), at)
            return replace(state, scaling=scaling)
        case pb.EndpointRedeployed():
            return _redeployed(state, event, at)
        case pb.EndpointRolledBack():
            assert state.rollout is not None, "only a rollout is rolled back"
            return _deploying(replace(state, rollout=None), state.rollout.previous, at)
        case pb.EndpointStopping():
            return replace(state, enabled=False, status=Status(EndpointState.STOPPING))
        case pb.EndpointRestarted():
            status = Status(EndpointState.QUEUED, WAITING_TO_BE_PLACED)
            autoscaling = Autoscaling(state.scaling.min_replicas)
            state = replace(state, autoscaling=autoscaling, failures=(), arrived_at=at)
            return replace(state, enabled=True, status=status)
        case pb.EndpointTerminated():
            return replace(state, enabled=False, status=Status(EndpointState.TERMINATED))
        case _:
            assert_never(event)


def _within(scaling: Scaling, state: Endpoint) -> int:
    """Return how many replicas are wanted within new bounds.

    Those that load has added stay, and so does the last one: it goes when it is idle.
    """
    replicas = state.autoscaling.replicas
    added = replicas > state.scaling.min_replicas
    least = max(scaling.min_replicas, min(replicas, 1))
    return min(max(replicas if added else 0, least), scaling.max_replicas)


def _autoscaled(state: Endpoint, autoscaling: Autoscaling, at: datetime) -> Endpoint:
    """Fold how many are wanted: what is needed more arrives now; whoever waits keeps its place."""
    grown = state.missing == 0 and autoscaling.replicas > state.autoscaling.replicas
    arrived_at = at if grown else state.arrived_at
    return replace(state, autoscaling=autoscaling, arrived_at=arrived_at)


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
    return Deployment(
        number,
        _checkpoint(event.checkpoint),
        event.gpu_type,
        event.gpu_count,
        serving_of(event.serving),
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
