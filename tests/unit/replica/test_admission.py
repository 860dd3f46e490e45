import traceback
from contextlib import AbstractContextManager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engineshed.replica.admission import Admission
from engineshed.replica.errors import ApiError, unavailable


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
