"""What an agent's report of a replica makes true.

Agents report states, again and again and sometimes late; only what takes a replica further is a
fact. A replica never goes back, and its facts never come before one another in time.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Final, TypeAlias

from engineshed.api.scheduler.v1 import events_pb2 as pb
from engineshed.scheduler.domain import failure
from engineshed.scheduler.domain.commands import Leave, Lose, Reclaim, Report
from engineshed.scheduler.domain.endpoint import Endpoint, EndpointEvent
from engineshed.scheduler.domain.evolve import evolve
from engineshed.scheduler.domain.replica import Replica, ReplicaState

# What an agent stopped without being asked was stopped by its host.
STOPPED_BY_HOST: Final = "STOPPED_BY_HOST"

DRAINED_BY_HOST: Final = "its host drains it"
RECLAIMED: Final = "reclaimed for reserved capacity of another endpoint"

_Starting: TypeAlias = type[pb.ReplicaFetching | pb.ReplicaBuilding | pb.ReplicaLoading]
_STARTING: Final[Mapping[ReplicaState, _Starting]] = {
    ReplicaState.FETCHING: pb.ReplicaFetching,
    ReplicaState.BUILDING: pb.ReplicaBuilding,
    ReplicaState.LOADING: pb.ReplicaLoading,
}


def reported(state: Endpoint, report: Report, now: datetime) -> list[EndpointEvent]:
    """Return what `report` makes true of its replica."""
    replica = state.replica(report.replica_id)
    if replica is None or replica.ended:
        return []
    match report.state:
        case ReplicaState.STOPPED | ReplicaState.FAILED:
            return _ended(state, replica, report, now)
        case ReplicaState.READY:
            return _ready(state, replica, report, now)
        case ReplicaState.FETCHING | ReplicaState.BUILDING | ReplicaState.LOADING:
            if not _further(replica, report.state):
                return []
            event = _STARTING[report.state](
                endpoint_id=state.endpoint_id, replica_id=replica.replica_id
            )
            event.effective_at.FromDatetime(_effective(replica, report.since, now))
            return [event]
        case ReplicaState.DRAINING:
            return _drained_by_host(state, replica, report, now)
        case _:
            return []


def lost(state: Endpoint, command: Lose, now: datetime) -> list[EndpointEvent]:
    """Return what the silence of a node makes true of its replicas."""
    events: list[EndpointEvent] = []
    for replica in state.replicas:
        if replica.live and replica.replica_id in command.replica_ids:
            event = pb.ReplicaLost(endpoint_id=state.endpoint_id, replica_id=replica.replica_id)
            event.effective_at.FromDatetime(_effective(replica, command.heard_at, now))
            events.append(event)
    return events


def leaving(state: Endpoint, command: Leave, now: datetime) -> list[EndpointEvent]:
    """Return which replicas are to be replaced from now on."""
    events: list[EndpointEvent] = []
    for replica in state.replicas:
        going = not replica.ended and replica.state is not ReplicaState.DRAINING
        if going and not replica.leaving and replica.replica_id in command.replica_ids:
            event = pb.ReplicaLeaving(
                endpoint_id=state.endpoint_id,
                replica_id=replica.replica_id,
                reason=command.reason,
            )
            event.effective_at.FromDatetime(_effective(replica, now, now))
            events.append(event)
    return events


def reclaimed(state: Endpoint, command: Reclaim, now: datetime) -> list[EndpointEvent]:
    """Return which opportunistic replicas give their GPUs to others; those that still are."""
    events: list[EndpointEvent] = []
    for replica in state.opportunistic:
        if replica.replica_id in command.replica_ids:
            event = pb.ReplicaDraining(
                endpoint_id=state.endpoint_id, replica_id=replica.replica_id, reason=RECLAIMED
            )
            event.effective_at.FromDatetime(_effective(replica, now, now))
            events.append(event)
    return events


def _ready(state: Endpoint, replica: Replica, report: Report, now: datetime) -> list[EndpointEvent]:
    if not _further(replica, ReplicaState.READY):
        return []
    if replica.ready_at is not None:  # unheard for a while, and there all the time
        found = pb.ReplicaFound(endpoint_id=state.endpoint_id, replica_id=replica.replica_id)
        found.effective_at.FromDatetime(_effective(replica, now, now))
        return [found]
    ready = pb.ReplicaReady(
        endpoint_id=state.endpoint_id,
        replica_id=replica.replica_id,
        engine_digest=report.engine_digest,
        engine_backend=report.engine_backend,
        engine_kind=report.engine_kind,
        url=report.url,
        engine_memory_bytes=report.engine_memory_bytes,
    )
    ready.effective_at.FromDatetime(_effective(replica, report.since, now))
    return [ready]


def _drained_by_host(
    state: Endpoint, replica: Replica, report: Report, now: datetime
) -> list[EndpointEvent]:
    """Return that a replica which serves takes no more requests, though nobody asked it to drain.

    One that says why is failing: how it ends is told in a moment, and counts as its failure.
    """
    if not replica.routable or report.code:
        return []
    draining = pb.ReplicaDraining(
        endpoint_id=state.endpoint_id, replica_id=replica.replica_id, reason=DRAINED_BY_HOST
    )
    draining.effective_at.FromDatetime(_effective(replica, report.since, now))
    return [draining]


def _ended(state: Endpoint, replica: Replica, report: Report, now: datetime) -> list[EndpointEvent]:
    at = _effective(replica, report.since, now)
    drained = replica.state is ReplicaState.DRAINING
    if drained and report.state is ReplicaState.STOPPED:
        stopped = pb.ReplicaStopped(endpoint_id=state.endpoint_id, replica_id=replica.replica_id)
        stopped.effective_at.FromDatetime(at)
        return [stopped]
    failed = pb.ReplicaFailed(
        endpoint_id=state.endpoint_id,
        replica_id=replica.replica_id,
        code=report.code or STOPPED_BY_HOST,
        reason=report.reason or "it was stopped on its host without being asked to",
        retryable=report.retryable or report.state is ReplicaState.STOPPED,
    )
    failed.effective_at.FromDatetime(at)
    given_up = None if drained else _verdict(evolve(state, failed, now), failed)
    return [failed, given_up] if given_up else [failed]


def _verdict(
    state: Endpoint, event: pb.ReplicaFailed
) -> pb.EndpointFailed | pb.EndpointRolloutFailed | None:
    """Return what has to be given up after `event`, which is folded in already: why.

    That is the rollout, if there is one; an endpoint that may still serve by another replica never
    is.
    """
    if state.wanted == 0 or event.code in failure.HOST_CODES:
        return None
    if state.rollout is not None and not state.rollout.failure:
        return _failed_rollout(state, event)
    if any(replica.routable for replica in state.replicas):
        return None
    why = _why_given_up(state, event)
    return why and pb.EndpointFailed(endpoint_id=state.endpoint_id, code=why[0], reason=why[1])


def _failed_rollout(state: Endpoint, event: pb.ReplicaFailed) -> pb.EndpointRolloutFailed | None:
    replica = state.replica(event.replica_id)
    if replica is None or replica.deployment != state.deployment:
        return None  # what is being replaced fails: that tells nothing of what replaces it
    why = _why_given_up(state, event)
    return why and pb.EndpointRolloutFailed(
        endpoint_id=state.endpoint_id,
        deployment=state.deployment.number,
        code=why[0],
        reason=why[1],
    )


def _why_given_up(state: Endpoint, event: pb.ReplicaFailed) -> tuple[str, str] | None:
    """Return code and reason when another try would end the same; else None."""
    if not event.retryable:
        return event.code, event.reason
    if failure.is_crash_loop(state.failures):
        return failure.CRASH_LOOP, (
            f"{failure.CRASHES} replicas in a row failed within ten minutes; "
            f"the last one by {event.code}: {event.reason}"
        )
    return None


def _further(replica: Replica, reported_state: ReplicaState) -> bool:
    """Tell whether a report takes the replica further; one that was lost may be anywhere now.

    But one that served is not starting again.
    """
    if replica.state is ReplicaState.LOST:
        return replica.ready_at is None or reported_state is ReplicaState.READY
    return replica.live and replica.state < reported_state


def _effective(replica: Replica, at: datetime, now: datetime) -> datetime:
    """Return `at`, but not before the replica's last event and not after now."""
    return max(min(at, now), replica.changed_at)
