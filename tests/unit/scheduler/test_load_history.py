"""What is known of an endpoint's load, by what its replicas say and when."""

from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st
from tests.unit.scheduler.world import World

from engineshed.scheduler.domain.load import Load
from engineshed.scheduler.domain.load_history import LoadHistory, Windows
from engineshed.scheduler.domain.scaling import Scaling

SECOND = timedelta(seconds=1)
WINDOWS = Windows(up=10 * SECOND, down=30 * SECOND, reclaim=5 * SECOND, stale=8 * SECOND)


class Told:
    """An endpoint whose replicas tell their loads every two seconds."""

    def __init__(self, replicas: int = 1, most: int = 4) -> None:
        self.world = World()
        self.world.join(8)
        self.history = LoadHistory(WINDOWS)
        self.endpoint_id = self.world.create(scaling=Scaling(replicas, most))
        self.world.plan()
        self.world.all_ready(self.endpoint_id)
        self.totals: dict[str, float] = {}
        self.idle_for: dict[str, float] = {}

    def tell(self, seconds: float, *in_flight: float | None) -> None:
        """Let time pass, with so many requests at each replica; None: it says nothing."""
        endpoint = self.world.endpoint(self.endpoint_id)
        until = self.world.now + timedelta(seconds=seconds)
        while self.world.now < until:
            self.world.sleep(2)
            for replica, load in zip(endpoint.replicas, in_flight, strict=True):
                if load is None:
                    continue
                one = replica.replica_id
                self.totals[one] = self.totals.get(one, 0.0) + 2 * load
                self.idle_for[one] = 0 if load else self.idle_for.get(one, 0) + 2
                idle = timedelta(seconds=self.idle_for[one])
                self.history.note(endpoint, replica, self.totals[one], idle, self.world.now)

    def load(self) -> Load | None:
        return self.history.load_of(self.world.endpoint(self.endpoint_id), self.world.now)

    def known(self) -> Load:
        load = self.load()
        assert load is not None
        return load


def test_it_is_the_sum_of_all_replicas() -> None:
    told = Told(replicas=3)
    told.tell(40, 1, 2.5, 4)
    load = told.known()
    assert (load.in_flight, load.low, load.high) == (7.5, 7.5, 7.5)


def test_windows_have_to_be_covered_before_they_count() -> None:
    told = Told()
    told.tell(8, 6)
    assert (told.known().low, told.known().high) == (0, None)
    told.tell(6, 6)
    assert (told.known().low, told.known().high) == (6, None)
    told.tell(20, 6)
    assert (told.known().low, told.known().high) == (6, 6)


def test_the_low_is_of_the_up_window_and_the_high_of_the_down_window() -> None:
    told = Told()
    told.tell(40, 6)
    told.tell(4, 1)
    told.tell(6, 5)
    assert (told.known().low, told.known().high) == (1, 6)
    told.tell(12, 5)
    assert (told.known().low, told.known().high) == (5, 6)
    told.tell(20, 5)
    assert told.known().high == 5


def test_of_a_silent_replica_nothing_is_known_and_so_of_the_whole_endpoint() -> None:
    told = Told(replicas=2)
    told.tell(40, 3, 3)
    told.tell(12, 3, None)
    assert told.load() is None
    told.tell(4, 3, 3)
    assert told.known().high is None, "both windows begin anew"
    assert told.known().low == 0


def test_when_nobody_says_anything_nothing_is_known() -> None:
    told = Told()
    told.tell(40, 3)
    told.tell(10, None)
    assert told.load() is None


def test_a_new_replica_does_not_hide_what_is_known_of_the_others() -> None:
    told = Told()
    told.tell(40, 6)
    told.world.grow(told.endpoint_id)
    told.tell(4, 3, 3)
    assert told.known().high == 6


def test_it_is_idle_since_the_last_request_of_any_replica() -> None:
    told = Told(replicas=2)
    told.tell(20, 1, 0)
    assert told.known().idle_for == timedelta(0)
    told.tell(6, 0, 0)
    assert told.known().idle_for == 6 * SECOND


def test_a_replica_is_idle_enough_after_its_window_or_before_it_serves() -> None:
    told = Told(replicas=2)
    first, second = told.world.endpoint(told.endpoint_id).replicas
    told.tell(10, 1, 1)
    told.tell(4, 0, 1)
    both = [(told.endpoint_id, first), (told.endpoint_id, second)]
    assert told.history.idle(both, told.world.now) == set()
    told.tell(2, 0, 1)
    assert told.history.idle(both, told.world.now) == {first.replica_id}
    told.tell(10, None, 1)
    assert told.history.idle(both, told.world.now) == set(), "it may have requests by now"
    starting = told.world.grow(told.endpoint_id, ready=False)
    one = [(told.endpoint_id, starting)]
    assert told.history.idle(one, told.world.now) == {starting.replica_id}


def test_an_endpoint_of_a_fixed_number_is_not_looked_at() -> None:
    told = Told(replicas=1, most=1)
    told.tell(40, 3)
    assert told.load() is None


@given(st.lists(st.integers(0, 20), min_size=20, max_size=60))
def test_the_windows_hold_the_least_and_the_most_of_what_was_said_in_them(
    loads: list[int],
) -> None:
    told = Told()
    for load in loads:
        told.tell(2, load)
    known = told.known()
    assert known.low == min(loads[-6:])
    assert known.high == max(loads[-16:])
