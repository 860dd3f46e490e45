import pytest

from engineshed.agent.domain.desired import Goal
from engineshed.agent.domain.life import (
    STOPPED,
    Ended,
    Failure,
    Gone,
    Idle,
    Outcome,
    Prepared,
    Preparing,
    Running,
)
from engineshed.agent.domain.report import State, seconds, state_of, status, without_times
from engineshed.api.agent.v1.agent_service_pb2 import ReplicaStatus
from engineshed.api.replica.v1 import replica_service_pb2 as pb
from engineshed.api.scheduler.v1.endpoint_service_pb2 import Replica

CRASHED = Failure("REPLICA_CRASHED", "it crashed", retryable=True)


@pytest.mark.parametrize(
    ("phase", "state"),
    [
        (pb.PHASE_UNSPECIFIED, Replica.STATE_LOADING),
        (pb.PHASE_LOADING, Replica.STATE_LOADING),
        (pb.PHASE_READY, Replica.STATE_READY),
        (pb.PHASE_DRAINING, Replica.STATE_DRAINING),
    ],
)
@pytest.mark.parametrize("goal", [Goal.RUN, Goal.KEEP])
def test_a_running_replica_is_where_its_front_says(
    phase: pb.Phase.ValueType, state: State, goal: Goal
) -> None:
    running = Running(phase)

    assert state_of(running, goal, Replica.STATE_FETCHING, Replica.STATE_LOADING) == state


@pytest.mark.parametrize("goal", [Goal.DRAIN, Goal.STOP, Goal.FORGET])
def test_one_that_shall_end_is_draining_until_its_processes_are_gone(goal: Goal) -> None:
    running = Running(pb.PHASE_READY)

    found = state_of(running, goal, Replica.STATE_FETCHING, Replica.STATE_READY)
    assert found == Replica.STATE_DRAINING


@pytest.mark.parametrize(
    ("previous", "state"),
    [
        (Replica.STATE_LOADING, Replica.STATE_LOADING),
        (Replica.STATE_READY, Replica.STATE_DRAINING),
    ],
)
def test_a_failed_front_counts_as_failed_only_when_it_is_gone(
    previous: State, state: State
) -> None:
    failing = Running(pb.PHASE_FAILED, failure=CRASHED)

    assert state_of(failing, Goal.RUN, Replica.STATE_FETCHING, previous) == state


def test_before_it_runs_it_is_where_its_preparation_is() -> None:
    stage, placed = Replica.STATE_BUILDING, Replica.STATE_PLACED

    assert state_of(Idle(), Goal.RUN, stage, placed) == placed
    assert state_of(Preparing(), Goal.RUN, stage, placed) == stage


@pytest.mark.parametrize("passing", [Prepared(), Gone(pb.PHASE_READY)])
def test_what_passes_at_once_is_not_reported(passing: Prepared | Gone) -> None:
    previous = Replica.STATE_READY

    assert state_of(passing, Goal.RUN, Replica.STATE_FETCHING, previous) == previous


def test_an_end_is_stopped_or_failed() -> None:
    stage, previous = Replica.STATE_FETCHING, Replica.STATE_DRAINING

    stopped = state_of(Ended(STOPPED), Goal.STOP, stage, previous)
    failed = state_of(Ended(Outcome(CRASHED)), Goal.RUN, stage, previous)
    assert (stopped, failed) == (Replica.STATE_STOPPED, Replica.STATE_FAILED)


def test_a_report_carries_the_age_and_the_failure() -> None:
    base = ReplicaStatus(replica_id="rep_1")

    report = status(base, Replica.STATE_FAILED, 1.5, CRASHED)

    assert report.state_age.ToMilliseconds() == 1500
    assert (report.code, report.reason, report.retryable) == ("REPLICA_CRASHED", "it crashed", True)
    assert not base.code


def test_an_age_is_never_negative() -> None:
    report = status(ReplicaStatus(), Replica.STATE_READY, -0.5, None)

    assert report.state_age.ToMilliseconds() == 0


def test_that_time_goes_by_is_no_news() -> None:
    def told(age: float, in_flight: int = 1) -> ReplicaStatus:
        base = ReplicaStatus(
            in_flight=in_flight, in_flight_seconds=10 + age, idle_age=seconds(20 + age)
        )
        return status(base, Replica.STATE_READY, age, None)

    assert without_times(told(1)) == without_times(told(2))
    assert without_times(told(1)) != without_times(told(1, in_flight=2))
    assert told(1).HasField("idle_age")
