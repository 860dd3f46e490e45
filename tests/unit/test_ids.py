"""Ids are well-formed, different, and sorted by time."""

import pytest

from engineshed import ids


@pytest.mark.parametrize("count", [0, 1, 3, 5000])
def test_several_ids_are_well_formed_different_and_ascending(count: int) -> None:
    made = ids.several(ids.EVENT, count)

    assert len(set(made)) == count
    assert made == sorted(made)
    assert all(ids.is_id(one, ids.EVENT) for one in made)


def test_several_ids_carry_the_time_as_one_does() -> None:
    before = ids.new(ids.EVENT)[: len("evt_") + 10]
    (made,) = ids.several(ids.EVENT, 1)
    after = ids.new(ids.EVENT)[: len("evt_") + 10]

    assert before <= made[: len("evt_") + 10] <= after


def test_calls_share_no_ids() -> None:
    made = [one for _ in range(1000) for one in ids.several(ids.EVENT, 5)]

    assert len(set(made)) == len(made)
