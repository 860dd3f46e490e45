"""Reserved replicas outrank what load has added elsewhere, once that is idle enough."""

from datetime import timedelta

from tests.unit.scheduler.world import S, World

from engineshed.scheduler.domain.load import Load, Signals
from engineshed.scheduler.domain.plan import Assign, Postpone, plan
from engineshed.scheduler.domain.reclaim import Reclaim
from engineshed.scheduler.domain.report import RECLAIMED
from engineshed.scheduler.domain.scaling import Scaling
from engineshed.scheduler.domain.score import Policy

POLICY = Policy(target=1)


def stretched(world: World, replicas: int, gpus: int = 1) -> str:
    """Return an endpoint with one reserved replica and others that load has added, all ready."""
    endpoint_id = world.create(gpus, scaling=Scaling(1, replicas))
    load = Load(replicas, replicas, replicas, timedelta(0))
    world.plan()
    world.all_ready(endpoint_id)
    world.carry_out(plan(world.view, (), POLICY, world.now, Signals({endpoint_id: load})))
    world.plan()
    world.all_ready(endpoint_id)
    assert world.endpoint(endpoint_id).ready == replicas
    return endpoint_id


def idle_ones(world: World, endpoint_id: str) -> set[str]:
    return {one.replica_id for one in world.endpoint(endpoint_id).opportunistic}


def test_an_idle_one_is_drained_for_a_reserved_one_and_its_gpus_go_there() -> None:
    world = World()
    world.join(2)
    elastic = stretched(world, 2)
    idle = idle_ones(world, elastic)
    waiting = world.create()
    decisions = world.plan(idle)
    assert [one for one in decisions if isinstance(one, Reclaim)] == [Reclaim(elastic, (*idle,))]
    drained = world.endpoint(elastic).replica(*idle)
    assert drained is not None
    assert (drained.state, drained.reason) == (S.DRAINING, RECLAIMED)
    assert world.plan(idle) == [], "once is enough"
    world.finish_draining(elastic)
    world.plan()
    assert len(world.live(waiting)) == 1
    assert len(world.live(elastic)) == 1, "what load asks for waits behind it"


def test_a_busy_one_is_never_taken() -> None:
    world = World()
    world.join(2)
    stretched(world, 2)
    world.create()
    assert not [one for one in world.plan() if isinstance(one, Reclaim)]


def test_reserved_ones_are_never_taken_whoever_claims_they_are_idle() -> None:
    world = World()
    world.join(2)
    elastic = stretched(world, 2)
    everything = {one.replica_id for one in world.live(elastic)}
    for _ in range(3):
        world.create()
    world.plan(everything)
    assert len(world.live(elastic)) == 1


def test_what_load_would_add_takes_nothing_from_anybody() -> None:
    world = World()
    world.join(2)
    elastic = stretched(world, 2)
    other = world.create(scaling=Scaling(0, 1))
    world.wake(other)
    decisions = world.plan(idle_ones(world, elastic))
    assert [type(one) for one in decisions] == [Postpone]


def test_reserved_ones_are_served_before_what_load_adds_elsewhere() -> None:
    world = World()
    world.join(2)
    eager = world.create(scaling=Scaling(0, 2))
    world.wake(eager)
    world.sleep(1)
    first, second = world.create(), world.create()
    world.plan()
    assert (len(world.live(first)), len(world.live(second))) == (1, 1)
    assert world.live(eager) == []


def test_as_few_gpus_as_possible_are_taken_and_all_on_one_node() -> None:
    world = World()
    world.join(4)
    world.join(4)
    elastic = stretched(world, 8)
    idle = idle_ones(world, elastic)
    world.create(gpus=2)
    world.plan(idle)
    drained = [one for one in world.endpoint(elastic).replicas if one.state is S.DRAINING]
    assert len(drained) == 2
    assert len({one.node_id for one in drained}) == 1


def test_everybody_who_waits_gets_room_at_once_but_no_more_than_that() -> None:
    world = World()
    world.join(4)
    elastic = stretched(world, 4)
    idle = idle_ones(world, elastic)
    waiting = [world.create() for _ in range(2)]
    world.plan(idle)
    drained = [one for one in world.endpoint(elastic).replicas if one.state is S.DRAINING]
    assert len(drained) == 2
    world.plan(idle)
    assert len(world.live(elastic)) == 2
    world.finish_draining(elastic)
    world.plan()
    assert [len(world.live(one)) for one in waiting] == [1, 1]


def test_nothing_is_taken_where_it_would_not_make_enough_room() -> None:
    world = World()
    world.join(4)
    world.create(gpus=3)
    elastic = world.create(scaling=Scaling(0, 1))
    world.wake(elastic)
    world.plan()
    world.all_ready(elastic)
    world.create(gpus=2)
    assert not [one for one in world.plan(idle_ones(world, elastic)) if isinstance(one, Reclaim)]


def test_nothing_is_taken_from_an_endpoint_for_its_own_reserved_replicas() -> None:
    world = World()
    node = world.join(1)
    other = world.join(1)
    elastic = stretched(world, 2)
    lost = next(one.node_id for one in world.live(elastic))
    world.lose(lost)
    left = world.live(elastic)
    assert [one.node_id for one in left] == [node if lost == other else other]
    assert world.plan({one.replica_id for one in left}) == [], "the one that is left is reserved"


def test_the_node_is_kept_for_whom_it_was_made_free() -> None:
    world = World()
    world.join(2)
    elastic = stretched(world, 2)
    idle = idle_ones(world, elastic)
    head = world.create()
    world.plan(idle)
    world.sleep(1)
    late = world.create()
    world.finish_draining(elastic)
    decisions = world.plan(idle)
    assert [one.endpoint_id for one in decisions if isinstance(one, Assign)] == [head]
    assert world.live(late) == []
