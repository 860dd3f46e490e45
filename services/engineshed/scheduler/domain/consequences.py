"""What follows at once from what was decided: surplus replicas drain, the status changes."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from engineshed.api.scheduler.v1 import events_pb2 as pb
from engineshed.scheduler.domain.endpoint import (
    WAITING_TO_BE_PLACED,
    Endpoint,
    EndpointEvent,
    EndpointState,
    Status,
    Strategy,
)
from engineshed.scheduler.domain.evolve import evolve
from engineshed.scheduler.domain.replica import Replica, ReplicaState

NOT_HEARD: Final = "its node is not heard"
STILL_ROUTED: Final = "its node is not heard; gateways go on sending it requests"


def of(state: Endpoint, events: Sequence[EndpointEvent], now: datetime) -> list[EndpointEvent]:
    """Return what follows from `events`, which are folded into `state` already."""
    drains = [_draining(state, replica, events, now) for replica in surplus(state)]
    for drain in drains:
        state = evolve(state, drain, now)
    completed = _completed(state)
    for completion in completed:
        state = evolve(state, completion, now)
    status = status_of(state)
    announced = [] if status == state.status else [_announced(state, status)]
    return [*drains, *completed, *announced]


def surplus(state: Endpoint) -> list[Replica]:
    """Return the replicas that should drain now, in the order in which they were placed.

    Of too many, those first in `staying` stay. One that is to be replaced stays while it serves
    and its replacement does not; an unheard one stays until enough others are ready: it may be
    serving all the time.
    """
    live = [replica for replica in state.replicas if replica.live]
    staying = state.staying[: state.wanted]
    uncovered = max(0, state.wanted - sum(replica.ready for replica in staying))
    replaced = [replica for replica in live if not state.current(replica) and replica.ready]
    if state.rollout and state.rollout.strategy is Strategy.RECREATE:
        replaced = [one for one in replaced if one.deployment == state.placing]
    staying += sorted(replaced, key=lambda replica: bool(replica.leaving))[:uncovered]
    enough = state.ready >= state.wanted
    return [
        replica
        for replica in state.replicas
        if (replica.live and replica not in staying)
        or (replica.state is ReplicaState.LOST and enough)
    ]


def status_of(state: Endpoint) -> Status:
    """Return the status that is true of the endpoint and its replicas."""
    if state.ended:
        return state.status
    if not state.enabled:
        return Status(EndpointState.STOPPING if state.holds_gpus else EndpointState.STOPPED)
    if state.ready:
        degraded = state.ready < state.scaling.min_replicas
        return Status(EndpointState.RUNNING, degraded=degraded)
    if not state.wanted:
        return Status(EndpointState.IDLE)
    if not state.placing.checkpoint.digest:
        checkpoint_id = state.placing.checkpoint.checkpoint_id
        reason = f"waiting for checkpoint {checkpoint_id} to be registered"
        return Status(EndpointState.PROVISIONING, reason)
    if any(replica.live for replica in state.replicas):
        return Status(EndpointState.PROVISIONING)
    if any(replica.routable for replica in state.replicas):
        return Status(EndpointState.PROVISIONING, STILL_ROUTED)
    if any(replica.state is ReplicaState.LOST for replica in state.replicas):
        return Status(EndpointState.PROVISIONING, NOT_HEARD)
    if state.status.state is EndpointState.QUEUED:
        return state.status  # the planner said what it waits for
    if state.status.state is EndpointState.IDLE:
        return Status(EndpointState.QUEUED, WAITING_TO_BE_PLACED)
    if state.replicas and state.replicas[-1].state is ReplicaState.FAILED:
        first_line, *_ = state.replicas[-1].reason.splitlines()  # the rest is its log
        return Status(EndpointState.PROVISIONING, f"trying again after {first_line}")
    return Status(EndpointState.QUEUED, WAITING_TO_BE_PLACED)


def waits(state: Endpoint) -> bool:
    """Tell whether it could be placed and has nothing placed, so that it stands in a queue."""
    return state.missing > 0 and not any(
        replica.live or replica.state is ReplicaState.LOST for replica in state.replicas
    )


def _completed(state: Endpoint) -> list[EndpointEvent]:
    """Return the end of a rollout, once nothing of what was before is left."""
    if state.rollout is None or state.rollout.failure or not state.wanted:
        return []
    occupying = list(state.occupying())
    if any(replica.deployment != state.deployment for replica in occupying):
        return []
    if sum(replica.ready for replica in occupying) < state.wanted:
        return []
    number = state.deployment.number
    return [pb.EndpointRolledOut(endpoint_id=state.endpoint_id, deployment=number)]


def _draining(
    state: Endpoint, replica: Replica, events: Sequence[EndpointEvent], now: datetime
) -> pb.ReplicaDraining:
    draining = pb.ReplicaDraining(
        endpoint_id=state.endpoint_id,
        replica_id=replica.replica_id,
        reason=_why_draining(state, replica, events),
    )
    draining.effective_at.FromDatetime(max(now, replica.changed_at))
    return draining


def _why_draining(state: Endpoint, replica: Replica, events: Sequence[EndpointEvent]) -> str:
    if state.ended:
        return state.status.state.name.lower()
    if not state.enabled:
        return "stopped"
    if replica.leaving:
        return replica.leaving
    if replica.deployment.number != state.placing.number:
        return f"replaced by deployment {state.placing.number}"
    if replica.state is ReplicaState.LOST:
        return "replaced while its node was not heard"
    if any(isinstance(event, pb.EndpointScaled | pb.EndpointAutoscaled) for event in events):
        return "scaled down" if state.wanted else "idle"
    return "not needed any more"


def _announced(state: Endpoint, status: Status) -> EndpointEvent:
    match status.state:
        case EndpointState.QUEUED:
            return pb.EndpointQueued(endpoint_id=state.endpoint_id, reason=status.reason)
        case EndpointState.PROVISIONING:
            return pb.EndpointProvisioning(endpoint_id=state.endpoint_id, reason=status.reason)
        case EndpointState.RUNNING:
            return pb.EndpointRunning(endpoint_id=state.endpoint_id, degraded=status.degraded)
        case EndpointState.IDLE:
            return pb.EndpointIdle(endpoint_id=state.endpoint_id)
        case EndpointState.STOPPED:
            return pb.EndpointStopped(endpoint_id=state.endpoint_id)
        case _:
            raise AssertionError(f"{status.state.name} is recorded by the command that causes it")
