"""Which engines make room: the least recently used, no more than needed, never one in use."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from engineshed.agent.engines.eviction import CachedEngine, Shortage, to_evict

sizes = st.integers(0, 100)
engines = st.lists(
    st.builds(
        CachedEngine,
        key=st.text("abcdef", min_size=1, max_size=3),
        size=sizes,
        frees=sizes,
        used_at=st.integers(0, 5).map(float),
        in_use=st.booleans(),
    ),
    unique_by=lambda engine: engine.key,
    max_size=8,
)
shortages = st.builds(Shortage, st.integers(-50, 300), st.integers(-50, 300))


def engine(key: str, used_at: float, **changes: object) -> CachedEngine:
    facts = {"key": key, "size": 10, "frees": 10, "used_at": used_at, "in_use": False, **changes}
    return CachedEngine(**facts)  # type: ignore[arg-type]  # test data


def keys(evicted: Sequence[CachedEngine]) -> list[str]:
    return [each.key for each in evicted]


def left(shortage: Shortage, evicted: Sequence[CachedEngine]) -> Shortage:
    for each in evicted:
        shortage = shortage.without(each)
    return shortage


def test_the_least_recently_used_go_first_and_no_more_than_needed() -> None:
    shelf = [engine("new", 3), engine("old", 1), engine("middle", 2)]

    assert keys(to_evict(shelf, Shortage(over_limit=15, lacking_on_disk=0))) == ["old", "middle"]
    assert keys(to_evict(shelf, Shortage(over_limit=0, lacking_on_disk=10))) == ["old"]
    assert keys(to_evict(shelf, Shortage(over_limit=0, lacking_on_disk=0))) == []


def test_one_in_use_stays_though_it_is_the_oldest() -> None:
    shelf = [engine("serving", 1, in_use=True), engine("idle", 2)]

    assert keys(to_evict(shelf, Shortage(over_limit=1000, lacking_on_disk=1000))) == ["idle"]


def test_one_that_shares_its_files_does_not_go_for_the_sake_of_the_disk() -> None:
    shelf = [engine("linked", 1, frees=0), engine("copied", 2)]

    assert keys(to_evict(shelf, Shortage(over_limit=0, lacking_on_disk=5))) == ["copied"]
    assert keys(to_evict(shelf, Shortage(over_limit=5, lacking_on_disk=0))) == ["linked"]


@given(engines, shortages)
def test_none_in_use_ever_goes(shelf: list[CachedEngine], shortage: Shortage) -> None:
    assert not any(each.in_use for each in to_evict(shelf, shortage))


@given(engines, shortages)
def test_it_is_enough_or_nothing_that_would_help_is_left(
    shelf: list[CachedEngine], shortage: Shortage
) -> None:
    evicted = to_evict(shelf, shortage)
    rest = left(shortage, evicted)
    remaining = [each for each in shelf if each not in evicted and not each.in_use]

    if rest.over_limit > 0:
        assert all(each.size == 0 for each in remaining)
    elif rest.lacking_on_disk > 0:
        # One that was passed over while the limit was kept may free nothing either.
        assert all(each.frees == 0 or each.size == 0 for each in remaining)


@given(engines, shortages)
def test_the_last_to_go_was_needed(shelf: list[CachedEngine], shortage: Shortage) -> None:
    evicted = to_evict(shelf, shortage)

    assert not evicted or left(shortage, evicted[:-1]).exists


@given(engines, shortages)
def test_no_one_that_stays_and_would_have_helped_was_used_before_one_that_goes(
    shelf: list[CachedEngine], shortage: Shortage
) -> None:
    evicted = to_evict(shelf, shortage)
    stayed = [each for each in shelf if each not in evicted and not each.in_use]
    helpful = [each for each in stayed if each.size and each.frees]

    assert all(gone.used_at <= kept.used_at for gone in evicted for kept in helpful)


@given(engines, shortages, st.randoms())
def test_the_order_in_which_they_are_found_changes_nothing(
    shelf: list[CachedEngine], shortage: Shortage, dice
) -> None:
    shuffled = list(shelf)
    dice.shuffle(shuffled)

    assert to_evict(shuffled, shortage) == to_evict(shelf, shortage)
