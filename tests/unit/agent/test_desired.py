import pytest

from engineshed.agent.domain.desired import (
    Goal,
    StaleDesiredStateError,
    Version,
    accepted,
    goal_of,
)
from engineshed.api.agent.v1.agent_service_pb2 import DesiredReplica, DesiredState


def state(term: int, generation: int) -> DesiredState:
    return DesiredState(term=term, generation=generation)


def test_the_first_desired_state_is_accepted() -> None:
    assert accepted(Version(), state(1, 0)) == Version(1, 0)


def test_the_same_desired_state_may_come_again() -> None:
    assert accepted(Version(3, 7), state(3, 7)) == Version(3, 7)


def test_a_new_leader_begins_to_count_anew() -> None:
    assert accepted(Version(3, 7), state(4, 0)) == Version(4, 0)


@pytest.mark.parametrize(("term", "generation"), [(3, 6), (2, 900)])
def test_an_older_desired_state_is_refused(term: int, generation: int) -> None:
    with pytest.raises(StaleDesiredStateError):
        accepted(Version(3, 7), state(term, generation))


@pytest.mark.parametrize(
    ("stated", "goal"),
    [
        (DesiredReplica.GOAL_RUN, Goal.RUN),
        (DesiredReplica.GOAL_DRAIN, Goal.DRAIN),
        (DesiredReplica.GOAL_STOP, Goal.STOP),
    ],
)
def test_a_goal_is_what_the_desired_state_says(
    stated: DesiredReplica.Goal.ValueType, goal: Goal
) -> None:
    assert goal_of(DesiredReplica(goal=stated)) is goal


def test_what_the_desired_state_does_not_name_is_forgotten() -> None:
    assert goal_of(None) is Goal.FORGET


def test_a_goal_of_a_newer_scheduler_changes_nothing() -> None:
    unknown = DesiredReplica()
    unknown.ParseFromString(b"\x20\x63")  # goal: 99

    assert unknown.goal == 99
    assert goal_of(unknown) is Goal.KEEP
