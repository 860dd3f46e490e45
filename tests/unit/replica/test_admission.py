import traceback
from contextlib import AbstractContextManager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engineshed.replica.admission import Admission
from engineshed.replica.errors import ApiError, unavailable

SECOND = 1_000_000_000


def opened(max_requests: int) -> Admission:
    admission = Admission(max_requests, max_sequences=1)
    admission.open()
    return admission


def test_nothing_is_admitted_before_it_is_opened() -> None:
    admission = Admission(1, 1)

    with pytest.raises(ApiError) as caught, admission.admit():
        pass

    assert (caught.value.status, caught.value.code) == (503, "loading")
    assert caught.value.retry_after == 1


@given(st.lists(st.booleans(), max_size=40), st.integers(1, 5))
def test_the_count_is_exact_and_never_above_the_limit(arrivals: list[bool], limit: int) -> None:
    admission = opened(limit)
    inside: list[AbstractContextManager[None]] = []
    for arrives in arrivals:
        if arrives:
            place = admission.admit()
            if len(inside) == limit:
                with pytest.raises(ApiError, match="takes no more"):
                    place.__enter__()
            else:
                place.__enter__()
                inside.append(place)
        elif inside:
            inside.pop().__exit__(None, None, None)
        assert admission.in_flight == len(inside) <= limit
    assert admission.admitted + admission.refused == sum(arrivals)


async def test_a_request_that_fails_leaves_its_place() -> None:
    admission = opened(1)
    with pytest.raises(RuntimeError), admission.admit():
        raise RuntimeError

    assert admission.in_flight == 0
    await admission.empty()


def test_requests_that_were_refused_are_forgotten() -> None:
    admission = Admission(1, 1)
    depths = []
    for _ in range(3):
        with pytest.raises(ApiError) as caught, admission.admit():
            pass
        depths.append(len(list(traceback.walk_tb(caught.value.__traceback__))))

    assert depths[0] == depths[1] == depths[2]


def test_once_closed_only_those_inside_go_on() -> None:
    admission = opened(2)
    with admission.admit():
        admission.close(unavailable("draining", "draining"))
        with pytest.raises(ApiError, match="draining"), admission.admit():
            pass
        assert admission.in_flight == 1
    assert admission.in_flight == 0


class Clock:
    """A clock that goes when it is told to, in nanoseconds."""

    def __init__(self) -> None:
        self.now = 1_000_000_007

    def __call__(self) -> int:
        return self.now


def test_before_it_is_opened_it_is_not_idle_and_then_it_is_since_that() -> None:
    clock = Clock()
    admission = Admission(1, 1, clock)
    clock.now += 5 * SECOND
    assert admission.idle_seconds is None

    admission.open()
    clock.now += 2 * SECOND

    assert admission.idle_seconds == 2


def test_while_it_has_a_request_it_is_not_idle_and_then_it_is_since_the_last_one_ended() -> None:
    clock = Clock()
    admission = Admission(2, 1, clock)
    admission.open()
    with admission.admit():
        clock.now += 3 * SECOND
        with admission.admit():
            clock.now += SECOND
        assert admission.idle_seconds == 0
    clock.now += 7 * SECOND

    assert admission.idle_seconds == 7
    assert admission.in_flight_seconds == 3 + 2 * 1


def test_a_request_that_is_refused_is_no_load() -> None:
    clock = Clock()
    admission = Admission(1, 1, clock)
    admission.open()
    clock.now += SECOND
    admission.close(unavailable("draining", "draining"))

    with pytest.raises(ApiError), admission.admit():
        pass
    clock.now += SECOND

    assert (admission.in_flight_seconds, admission.idle_seconds) == (0, 2)


@given(
    st.lists(
        st.tuples(st.integers(0, 10**15), st.booleans(), st.integers(0, 4)), min_size=1, max_size=40
    )
)
def test_the_time_in_flight_is_the_sum_of_what_each_request_took(
    steps: list[tuple[int, bool, int]],
) -> None:
    clock = Clock()
    admission = Admission(5, 1, clock)
    admission.open()
    inside: list[tuple[AbstractContextManager[None], int]] = []
    took, emptied = 0, clock.now
    for pause, arrives, which in steps:
        clock.now += pause
        if arrives and len(inside) < 5:
            entering = admission.admit()
            entering.__enter__()
            inside.append((entering, clock.now))
        elif arrives:
            with pytest.raises(ApiError):
                admission.admit().__enter__()
        elif inside:
            place, came = inside.pop(which % len(inside))
            place.__exit__(None, None, None)
            took += clock.now - came
            emptied = clock.now
        open_ = sum(clock.now - came for _, came in inside)
        assert admission.in_flight_seconds == (took + open_) / SECOND
        assert admission.idle_seconds == (0 if inside else (clock.now - emptied) / SECOND)
