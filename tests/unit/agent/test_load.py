"""What is told of a front's requests between its answers."""

from itertools import pairwise

import hypothesis.strategies as st
import pytest
from hypothesis import given

from engineshed.agent.domain.load import STALE_SECONDS, Answer, FrontLoad


def answered(at: float, seconds: float = 0.0, idle: float | None = 0.0) -> Answer:
    return Answer(at, seconds, idle, busy=idle == 0.0)


def after(*answers: Answer) -> FrontLoad:
    first, *others = answers
    load = FrontLoad(first, first)
    for answer in others:
        load = load.after(answer)
    return load


def test_an_idle_front_has_been_idle_for_longer_than_when_it_answered() -> None:
    load = after(answered(10.0, idle=5.0))

    assert load.idle_seconds(10.0) == 5.0
    assert load.idle_seconds(11.5) == 6.5


def test_a_busy_front_is_not_taken_for_idle_before_it_says_so() -> None:
    assert after(answered(10.0)).idle_seconds(11.5) == 0.0


def test_one_whose_last_request_ended_just_now_is_idle_from_then_on() -> None:
    load = after(Answer(10.0, 1.0, idle_seconds=0.0, busy=False))

    assert load.idle_seconds(11.0) == 1.0


@pytest.mark.parametrize("idle", [0.0, 5.0])
def test_a_front_that_does_not_answer_any_more_may_be_idle_or_not(idle: float) -> None:
    load = after(answered(10.0, idle=idle))

    assert load.idle_seconds(10.0 + STALE_SECONDS) is not None
    assert load.idle_seconds(10.1 + STALE_SECONDS) is None


def test_a_front_that_was_never_ready_is_not_idle() -> None:
    assert after(answered(10.0, idle=None)).idle_seconds(10.0) is None


def test_the_first_answer_counts_at_once() -> None:
    assert after(answered(10.0, seconds=70.0)).in_flight_seconds(10.0) == 70.0


@given(st.lists(st.floats(0.2, 3.0), min_size=2, max_size=10), st.integers(1, 8))
def test_a_load_that_stays_the_same_is_told_right_whenever_it_is_looked_at(
    looks: list[float], in_flight: int
) -> None:
    """A front is asked every second; the looks at it are at other times."""
    load = after(answered(0.0), answered(1.0, in_flight))
    asked, now = 1, 1.0
    told = [(now, load.in_flight_seconds(now))]
    for pause in looks:
        now += pause
        while asked + 1 <= now:
            asked += 1
            load = load.after(answered(asked, in_flight * asked))
        told.append((now, load.in_flight_seconds(now)))
    for (earlier, seconds), (later, more) in pairwise(told):
        assert (more - seconds) / (later - earlier) == pytest.approx(in_flight)


@given(
    st.lists(
        st.tuples(st.integers(0, 20_000), st.floats(0.0, 100.0), st.booleans()),
        min_size=1,
        max_size=30,
    )
)
def test_what_is_told_never_shrinks_and_is_never_more_than_the_front_said(
    steps: list[tuple[int, float, bool]],
) -> None:
    now, said, told = 0.0, 0.0, 0.0
    load = after(answered(now, said))
    for milliseconds, grown, answers in steps:
        now += milliseconds / 1000
        if answers:
            said += grown
            load = load.after(answered(now, said))
        seconds = load.in_flight_seconds(now)
        assert told <= seconds <= said
        told = seconds
