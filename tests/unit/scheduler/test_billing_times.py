"""What is billed: from ready to the first of draining, failed or lost; whatever happens, no more.

An agent's clock on the wall plays no part: it tells how long ago something was, and the scheduler
counts back. Here agents tell the truth late, or lie.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from engineshed.api.scheduler.v1 import events_pb2 as pb
from engineshed.scheduler.domain.commands import Leave, Lose, Report, Restart, Stop
from engineshed.scheduler.domain.replica import Replica, ReplicaState

from .world import World

S = ReplicaState

BEGINS = (pb.ReplicaReady, pb.ReplicaFound)
ENDS = (
    pb.ReplicaDraining,
    pb.ReplicaFailed,
    pb.ReplicaLost,
    pb.ReplicaStopped,
)
ROUNDED = 1e-3  # seconds
STARTING = (pb.ReplicaPlaced, pb.ReplicaFetching, pb.ReplicaBuilding, pb.ReplicaLoading)


@dataclass
class Bill:
    """The times of one replica, as its events have them."""

    intervals: list[tuple[datetime, datetime]] = field(default_factory=list)
    open_since: datetime | None = None
    started_by: datetime | None = None  # the last moment at which it was still starting
    over_since: datetime | None = None  # when it drained, failed or stopped
    recorded: list[datetime] = field(default_factory=list)
    effective: list[datetime] = field(default_factory=list)


def bills(world: World) -> dict[str, Bill]:
    found: dict[str, Bill] = {}
    for _, event, recorded_at in world.log:
        if not hasattr(event, "replica_id"):
            continue
        bill = found.setdefault(event.replica_id, Bill())
        placed = isinstance(event, pb.ReplicaPlaced)
        at = recorded_at if placed else event.effective_at.ToDatetime(UTC)  # type: ignore[attr-defined]  # all others have it
        bill.recorded.append(recorded_at)
        bill.effective.append(at)
        if isinstance(event, STARTING):
            bill.started_by = at
        if isinstance(event, BEGINS):
            assert bill.open_since is None, "it is billed twice at once"
            assert bill.over_since is None, "it is billed after its end"
            bill.open_since = at
        if isinstance(event, ENDS):
            if bill.open_since is not None:
                bill.intervals.append((bill.open_since, at))
            bill.open_since = None
            if not isinstance(event, pb.ReplicaLost):
                bill.over_since = bill.over_since or at
    return found


seconds = st.floats(0, 100)
ages = st.one_of(seconds, st.sampled_from([0.0, 1e9]), st.floats(-100, 0))
STEPS = st.one_of(
    st.tuples(st.just("wait"), seconds),
    st.tuples(st.just("wait"), st.floats(-5, 0)),  # another leader, whose clock is behind
    st.tuples(st.just("report"), st.integers(0, 2), st.sampled_from(list(S)), ages),
    st.tuples(st.just("lose"), st.integers(0, 2), ages),
    st.tuples(st.sampled_from(["stop", "restart", "plan"])),
    st.tuples(st.just("leave"), st.integers(0, 2)),
)


@given(st.lists(STEPS, max_size=40))
def test_whatever_agents_say_no_interval_is_negative_or_outside_of_serving(
    steps: list[tuple[object, ...]],
) -> None:
    world = World()
    world.join(gpus=8)
    endpoint_id = world.create(replicas=2)
    world.plan()
    for step in steps:
        take(world, endpoint_id, step)

    for bill in bills(world).values():
        assert bill.effective == sorted(bill.effective)
        for began, ended in bill.intervals:
            assert began <= ended
            assert bill.started_by is not None
            assert began >= bill.started_by
            assert bill.over_since is None or ended <= bill.over_since
        for (_, ended), (began, _) in zip(bill.intervals, bill.intervals[1:], strict=False):
            assert ended <= began
        latest = max(bill.recorded)
        assert all(at <= latest for at in bill.effective), "nothing is known before it happens"


def take(world: World, endpoint_id: str, step: tuple[object, ...]) -> None:
    replicas = [one for one in world.endpoint(endpoint_id).replicas if not one.ended]
    match step:
        case ("wait", float(length)):
            latest = max((at for _, _, at in world.log), default=world.now)
            world.now = max(latest, world.now + timedelta(seconds=length))
        case ("report", int(index), ReplicaState() as state, float(age)) if replicas:
            world.report(endpoint_id, pick(replicas, index).replica_id, state, age=age)
        case ("lose", int(index), float(ago)) if replicas:
            heard_at = world.now - timedelta(seconds=ago)
            world.tell(endpoint_id, Lose((pick(replicas, index).replica_id,), heard_at))
        case ("leave", int(index)) if replicas:
            world.tell(endpoint_id, Leave((pick(replicas, index).replica_id,), "a test"))
        case ("stop",) if not world.endpoint(endpoint_id).ended:
            world.tell(endpoint_id, Stop())
        case ("restart",) if not world.endpoint(endpoint_id).ended:
            world.tell(endpoint_id, Restart())
        case ("plan",):
            world.plan()


def pick(replicas: list[Replica], index: int) -> Replica:
    return replicas[index % len(replicas)]


@given(
    stages=st.lists(st.floats(0.1, 100), min_size=3, max_size=3),
    serving=st.floats(0.1, 1000),
    heard=st.lists(st.floats(0, 1300), max_size=12),
    delay=st.floats(0, 3),
    lag=st.floats(0, 600),
)
def test_a_replica_is_billed_for_the_time_that_it_served(
    stages: list[float], serving: float, heard: list[float], delay: float, lag: float
) -> None:
    """Its agent tells the truth, but is heard at few moments, and `delay` after it spoke."""
    world = World()
    world.join()
    endpoint_id = world.create()
    world.plan()
    (replica,) = world.live(endpoint_id)
    starts = list(history(stages, serving))
    ready, ended = starts[-2][1], starts[-1][1]
    begin = world.now
    for spoken in sorted([*heard, ended + lag]):
        state, since = max((one for one in starts if one[1] <= spoken), key=lambda one: one[1])
        world.now = begin + timedelta(seconds=spoken + delay)
        heard_since = world.now - timedelta(seconds=spoken - since)
        world.tell(endpoint_id, Report(replica.replica_id, state, heard_since))

    (bill,) = [bill for one, bill in bills(world).items() if one == replica.replica_id]
    billed = sum(((end - start).total_seconds() for start, end in bill.intervals), 0.0)
    assert billed == 0 or abs(billed - serving) <= ROUNDED
    assert (billed > 0) == any(ready <= spoken < ended for spoken in heard)
    for start, end in bill.intervals:
        assert start >= begin + timedelta(seconds=ready - ROUNDED)
        assert end <= begin + timedelta(seconds=ended + delay + ROUNDED)


def history(stages: list[float], serving: float) -> Iterator[tuple[ReplicaState, float]]:
    """Yield the states of a replica and when each began, in seconds after it was placed."""
    at = 0.0
    for state, length in zip((S.FETCHING, S.BUILDING, S.LOADING), stages, strict=True):
        yield state, at
        at += length
    yield S.READY, at
    yield S.FAILED, at + serving


def test_while_its_node_is_not_heard_it_is_not_billed() -> None:
    world = World()
    node_id = world.join()
    endpoint_id = world.running()
    (replica,) = world.live(endpoint_id)
    begin = world.now
    world.sleep(60)
    heard_at = world.now
    world.sleep(10)
    world.tell(endpoint_id, Lose((replica.replica_id,), heard_at))
    world.sleep(100)
    world.hear(node_id)
    world.report(endpoint_id, replica.replica_id, S.READY, age=170)
    found = world.now
    world.sleep(5)
    world.tell(endpoint_id, Stop())

    assert bills(world)[replica.replica_id].intervals == [
        (begin, heard_at),
        (found, found + timedelta(seconds=5)),
    ]
