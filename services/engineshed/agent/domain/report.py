"""What the scheduler is told of a replica."""

from typing import Final, TypeAlias

from google.protobuf.duration_pb2 import Duration

from engineshed.agent.domain.desired import Goal
from engineshed.agent.domain.life import (
    Ended,
    Failure,
    Gone,
    Idle,
    Prepared,
    Preparing,
    Running,
    Seen,
    Unpreparable,
)
from engineshed.api.agent.v1 import agent_service_pb2 as agent_pb
from engineshed.api.replica.v1 import replica_service_pb2 as replica_pb
from engineshed.api.scheduler.v1.endpoint_service_pb2 import Replica

State: TypeAlias = Replica.State.ValueType

_BEFORE_READY: Final = frozenset(
    {Replica.STATE_PLACED, Replica.STATE_FETCHING, Replica.STATE_BUILDING, Replica.STATE_LOADING}
)


def state_of(seen: Seen, goal: Goal, stage: State, previous: State) -> State:
    """Return the state that stands for what is seen.

    Args:
        seen: what is the case.
        goal: what is wanted.
        stage: FETCHING or BUILDING, while it is being prepared.
        previous: the state that it had until now.

    """
    match seen:
        case Idle():
            return Replica.STATE_PLACED
        case Preparing():
            return stage
        case Prepared() | Unpreparable() | Gone():
            return previous  # for a moment: what comes of it is recorded next
        case Running():
            return _while_running(seen, goal, previous)
        case Ended(outcome):
            return Replica.STATE_STOPPED if outcome.failure is None else Replica.STATE_FAILED


def _while_running(seen: Running, goal: Goal, previous: State) -> State:
    if goal not in (Goal.RUN, Goal.KEEP):
        return Replica.STATE_DRAINING
    match seen.phase:
        case replica_pb.PHASE_READY:
            return Replica.STATE_READY
        case replica_pb.PHASE_DRAINING:
            return Replica.STATE_DRAINING
        case replica_pb.PHASE_FAILED | replica_pb.PHASE_STOPPED:
            # FAILED would say that its processes are gone. One that served does so no more.
            return previous if previous in _BEFORE_READY else Replica.STATE_DRAINING
        case _:
            return Replica.STATE_LOADING


def seconds(value: float) -> Duration:
    """Return a length of time as a message."""
    duration = Duration()
    duration.FromNanoseconds(round(value * 1e9))
    return duration


def without_times(told: agent_pb.ReplicaStatus) -> agent_pb.ReplicaStatus:
    """Return what of `told` is news when it changes.

    The rest changes by itself as time goes by; it is told whenever something is.
    """
    news = agent_pb.ReplicaStatus()
    news.CopyFrom(told)
    for field in ("state_age", "in_flight_seconds", "idle_age"):
        news.ClearField(field)
    return news


def status(
    base: agent_pb.ReplicaStatus, state: State, age: float, failure: Failure | None
) -> agent_pb.ReplicaStatus:
    """Return `base`, which names the replica, with its state, the state's age and its failure."""
    report = agent_pb.ReplicaStatus()
    report.CopyFrom(base)
    report.state = state
    report.state_age.CopyFrom(seconds(max(0.0, age)))
    if failure is not None:
        report.code, report.reason, report.retryable = (
            failure.code,
            failure.reason,
            failure.retryable,
        )
    return report
