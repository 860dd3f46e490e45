"""What is done with a replica, case by case, and what holds whatever happens to it."""

import hypothesis.strategies as st
import pytest
from hypothesis import given

from engineshed.agent.domain.desired import Goal
from engineshed.agent.domain.life import (
    EXIT_SECONDS,
    MISSED_POLLS,
    START_SECONDS,
    STOPPED,
    Action,
    Conclude,
    End,
    Ended,
    Failure,
    Gone,
    Idle,
    Outcome,
    Prepared,
    Preparing,
    Running,
    Seen,
    Step,
    Unpreparable,
    next_action,
)
from engineshed.api.replica.v1 import replica_service_pb2 as pb

DRAIN_TIMEOUT = 60.0
BAD_WEIGHTS = Failure("BAD_WEIGHTS", "model.safetensors is no safetensors file", retryable=False)
DIED = Failure("TRITON_DIED", "Triton ended with status 1", retryable=True)
READY = Running(pb.PHASE_READY)
NOT_WANTED = (Goal.DRAIN, Goal.STOP, Goal.FORGET)


def action(goal: Goal, seen: Seen) -> Action:
    return next_action(goal, seen, DRAIN_TIMEOUT)


def test_a_wanted_replica_is_prepared_then_started_then_left_alone() -> None:
    assert action(Goal.RUN, Idle()) is Step.PREPARE
    assert action(Goal.RUN, Preparing()) is Step.WAIT
    assert action(Goal.RUN, Prepared()) is Step.START
    assert action(Goal.RUN, Running()) is Step.WAIT
    assert action(Goal.RUN, READY) is Step.WAIT


def test_what_cannot_be_prepared_has_failed() -> None:
    assert action(Goal.RUN, Unpreparable(BAD_WEIGHTS)) == Conclude(Outcome(BAD_WEIGHTS))


@pytest.mark.parametrize("goal", NOT_WANTED)
def test_a_replica_that_never_started_is_stopped_at_once(goal: Goal) -> None:
    assert action(goal, Idle()) == Conclude(STOPPED)
    assert action(goal, Prepared()) == Conclude(STOPPED)
    assert action(goal, Preparing()) is Step.GIVE_UP_PREPARING


@pytest.mark.parametrize("goal", [Goal.STOP, Goal.FORGET])
def test_a_replica_that_is_not_wanted_is_ended(goal: Goal) -> None:
    assert action(goal, READY) == End(STOPPED)


def test_draining_asks_waits_for_the_last_request_then_ends() -> None:
    assert action(Goal.DRAIN, Running(pb.PHASE_READY, in_flight=2)) is Step.ASK_TO_DRAIN
    assert action(Goal.DRAIN, Running(pb.PHASE_DRAINING, in_flight=2)) is Step.WAIT
    assert action(Goal.DRAIN, Running(pb.PHASE_DRAINING, in_flight=0)) == End(STOPPED)


def test_one_that_was_not_asked_yet_may_have_requests() -> None:
    assert action(Goal.DRAIN, Running(pb.PHASE_DRAINING, in_flight=None)) is Step.WAIT


def test_no_request_in_flight_before_it_was_asked_to_drain_says_nothing() -> None:
    assert action(Goal.DRAIN, READY) is Step.ASK_TO_DRAIN


def test_draining_is_cut_off_when_it_takes_too_long() -> None:
    slow = Running(pb.PHASE_DRAINING, in_flight=1, draining_seconds=DRAIN_TIMEOUT)

    assert action(Goal.DRAIN, slow) == End(STOPPED)


def test_draining_one_that_only_loads_ends_it() -> None:
    assert action(Goal.DRAIN, Running(pb.PHASE_LOADING)) == End(STOPPED)


def test_a_front_that_does_not_answer_is_killed() -> None:
    silent = Running(pb.PHASE_READY, missed_polls=MISSED_POLLS)

    found = action(Goal.RUN, silent)

    assert isinstance(found, End)
    assert not found.ask
    assert found.intended.failure is not None
    assert found.intended.failure.code == "FRONT_UNRESPONSIVE"


def test_a_front_that_missed_few_questions_is_left_alone() -> None:
    slow = Running(pb.PHASE_READY, missed_polls=MISSED_POLLS - 1)

    assert action(Goal.RUN, slow) is Step.WAIT


@pytest.mark.parametrize(
    ("phase", "limit"), [(pb.PHASE_UNSPECIFIED, START_SECONDS), (pb.PHASE_STOPPED, EXIT_SECONDS)]
)
def test_a_front_that_neither_listens_nor_ends_is_killed(
    phase: pb.Phase.ValueType, limit: float
) -> None:
    assert action(Goal.RUN, Running(phase, silent_seconds=limit - 1)) is Step.WAIT
    assert isinstance(action(Goal.RUN, Running(phase, silent_seconds=limit)), End)


def test_a_failed_front_that_does_not_end_is_killed_with_its_own_reason() -> None:
    stuck = Running(pb.PHASE_FAILED, silent_seconds=EXIT_SECONDS, failure=DIED)

    assert action(Goal.RUN, stuck) == End(Outcome(DIED), ask=False)


def test_what_a_front_says_of_its_failure_is_why_it_failed() -> None:
    gone = Gone(pb.PHASE_FAILED, failure=DIED, rebooted=True)

    assert action(Goal.RUN, gone) == Conclude(Outcome(DIED))


def test_what_the_agent_ended_was_stopped() -> None:
    gone = Gone(pb.PHASE_READY, intended=STOPPED, exit="killed by signal 9")

    assert action(Goal.STOP, gone) == Conclude(STOPPED)


@pytest.mark.parametrize(
    ("gone", "code"),
    [
        (Gone(pb.PHASE_STOPPED), "NODE_RESTARTED"),
        (Gone(pb.PHASE_DRAINING, exit="killed by signal 9"), "NODE_RESTARTED"),
        (Gone(pb.PHASE_READY, watched=False), "NODE_RESTARTED"),
        (Gone(pb.PHASE_READY, rebooted=True), "NODE_RESTARTED"),
        (Gone(pb.PHASE_READY), "REPLICA_CRASHED"),
        (Gone(pb.PHASE_UNSPECIFIED, exit="exit status 1"), "REPLICA_CRASHED"),
    ],
)
def test_an_end_that_nobody_asked_for_is_a_failure_that_may_pass(gone: Gone, code: str) -> None:
    found = action(Goal.RUN, gone)

    assert isinstance(found, Conclude)
    assert found.outcome.failure is not None
    assert found.outcome.failure.code == code
    assert found.outcome.failure.retryable
    assert code == "NODE_RESTARTED" or gone.exit in found.outcome.failure.reason


def test_an_ended_replica_stays_until_the_desired_state_names_it_no_more() -> None:
    ended = Ended(Outcome(BAD_WEIGHTS))

    assert action(Goal.RUN, ended) is Step.WAIT
    assert action(Goal.STOP, ended) is Step.WAIT
    assert action(Goal.FORGET, ended) is Step.REMOVE


phases = st.sampled_from(pb.Phase.values())
outcomes = st.sampled_from([STOPPED, Outcome(DIED)])
running = st.builds(
    Running,
    phase=phases,
    in_flight=st.none() | st.integers(0, 3),
    missed_polls=st.integers(0, 5),
    silent_seconds=st.floats(0, 1000),
    draining_seconds=st.floats(0, 1000),
)
gone = st.builds(Gone, phase=phases, intended=st.none() | outcomes, watched=st.booleans())
anything: st.SearchStrategy[Seen] = st.one_of(
    st.sampled_from([Idle(), Preparing(), Prepared(), Unpreparable(BAD_WEIGHTS)]),
    running,
    gone,
    st.builds(Ended, outcomes),
)


@given(anything)
def test_before_the_first_desired_state_nothing_is_begun_and_nothing_is_ended(seen: Seen) -> None:
    found = action(Goal.KEEP, seen)

    assert found is Step.WAIT or isinstance(found, Conclude)
    if isinstance(found, Conclude):
        assert isinstance(seen, Gone | Unpreparable)  # it had ended before


@given(st.sampled_from(Goal), anything)
def test_a_front_is_started_only_where_none_was_and_one_is_wanted(goal: Goal, seen: Seen) -> None:
    if action(goal, seen) is Step.START:
        assert goal is Goal.RUN
        assert isinstance(seen, Prepared)


@given(st.sampled_from(NOT_WANTED), anything)
def test_what_is_not_wanted_comes_to_an_end(goal: Goal, seen: Seen) -> None:
    for _ in range(10):
        if isinstance(seen, Ended):
            break
        seen = after(action(goal, seen), seen)

    assert isinstance(seen, Ended)


def after(done: Action, seen: Seen) -> Seen:
    """Return what is seen next when the host does as it should."""
    match done:
        case Conclude(outcome):
            return Ended(outcome)
        case End(intended):
            return Gone(pb.PHASE_STOPPED, intended=intended)
        case Step.GIVE_UP_PREPARING:
            return Idle()
        case Step.ASK_TO_DRAIN:
            return Running(pb.PHASE_DRAINING, in_flight=3)
        case Step.WAIT if isinstance(seen, Running) and seen.in_flight:
            return Running(pb.PHASE_DRAINING, in_flight=seen.in_flight - 1)
        case Step.WAIT:
            return Gone(pb.PHASE_STOPPED)  # it ended by itself
        case _:
            raise AssertionError(f"{done} was not wanted")
