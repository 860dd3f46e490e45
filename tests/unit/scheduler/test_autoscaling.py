"""How many replicas run: by load, within bounds; none, until a request comes."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.scheduler.world import S, World, names

from engineshed.api.scheduler.v1 import events_pb2 as pb
from engineshed.scheduler.domain.autoscale import autoscale, why_kept
from engineshed.scheduler.domain.commands import (
    Autoscale,
    Redeployment,
    Restart,
    Stop,
    Update,
    Wake,
)
from engineshed.scheduler.domain.endpoint import EndpointState
from engineshed.scheduler.domain.load import Load, Signals, load_of
from engineshed.scheduler.domain.plan import plan
from engineshed.scheduler.domain.scaling import IDLE_AFTER, Scaling
from engineshed.scheduler.domain.score import Policy

POLICY = Policy(target=4)
BUSY = timedelta(0)
E = EndpointState


def steady(in_flight: float, *, idle_for: timedelta = BUSY) -> Load:
    """Return a load that has been the same for as long as anybody looks back."""
    return Load(in_flight, in_flight, in_flight, idle_for)


def running(world: World, least: int = 1, most: int = 4) -> str:
    """Return an endpoint whose reserved replicas are ready."""
    if not world.view.nodes:
        world.join(8)
    endpoint_id = world.create(scaling=Scaling(least, most))
    world.plan()
    world.all_ready(endpoint_id)
    return endpoint_id


def wanted_after(world: World, endpoint_id: str, load: Load) -> int:
    """Let the planner see a load; return how many replicas it wants then."""
    decisions = plan(world.view, (), POLICY, world.now, Signals({endpoint_id: load}))
    world.carry_out(decisions)
    return world.endpoint(endpoint_id).wanted


@pytest.mark.parametrize(
    ("in_flight", "wanted"), [(0, 1), (4, 1), (4.02, 1), (4.5, 2), (8, 2), (12.5, 4), (90, 4)]
)
def test_each_replica_gets_what_the_policy_wants_it_to_have(in_flight: float, wanted: int) -> None:
    world = World()
    endpoint_id = running(world)
    assert wanted_after(world, endpoint_id, steady(in_flight)) == wanted
    world.plan()
    assert len(world.live(endpoint_id)) == wanted


def test_a_burst_adds_nothing_and_a_pause_takes_nothing_away() -> None:
    world = World()
    endpoint_id = running(world)
    assert wanted_after(world, endpoint_id, steady(8)) == 2
    burst = Load(in_flight=40, low=3, high=40, idle_for=BUSY)
    pause = Load(in_flight=0, low=0, high=7, idle_for=timedelta(seconds=20))
    assert wanted_after(world, endpoint_id, burst) == 2
    assert wanted_after(world, endpoint_id, pause) == 2
    assert wanted_after(world, endpoint_id, steady(3)) == 1


def test_what_is_not_covered_by_its_window_takes_nothing_away() -> None:
    world = World()
    endpoint_id = running(world)
    assert wanted_after(world, endpoint_id, steady(8)) == 2
    young = Load(in_flight=0, low=0, high=None, idle_for=timedelta(seconds=20))
    assert wanted_after(world, endpoint_id, young) == 2
    assert "long enough" in why_kept(world.endpoint(endpoint_id), young, POLICY)


def test_an_unknown_load_changes_nothing_and_is_said() -> None:
    world = World()
    endpoint_id = running(world)
    assert plan(world.view, (), POLICY, world.now) == []
    assert "not known" in why_kept(world.endpoint(endpoint_id), None, POLICY)


def test_the_decision_is_recorded_with_what_it_was_made_from() -> None:
    world = World()
    endpoint_id = running(world)
    load = steady(9)
    wanted_after(world, endpoint_id, load)
    event = world.log[-1][1]
    assert isinstance(event, pb.EndpointAutoscaled)
    assert (event.replicas, event.why.replicas, event.why.target) == (3, 1, 4)
    assert load_of(event.why.load) == load
    assert event.why.reason == (
        "9.0 requests in flight or more are too many for 1 replica at 4 each"
    )
    assert world.endpoint(endpoint_id).autoscaling.why == event.why


def test_what_load_added_is_opportunistic_and_what_is_reserved_is_not() -> None:
    world = World()
    endpoint_id = running(world, least=2)
    wanted_after(world, endpoint_id, steady(16))
    world.plan()
    endpoint = world.endpoint(endpoint_id)
    assert [one.capacity for one in endpoint.replicas] == [
        "reserved",
        "reserved",
        "opportunistic",
        "opportunistic",
    ]
    world.tell(endpoint_id, Update(min_replicas=3))
    endpoint = world.endpoint(endpoint_id)
    assert [endpoint.capacity_of(one) for one in endpoint.replicas].count("opportunistic") == 1
    assert endpoint.wanted == 4, "load still asks for it"


def test_fewer_replicas_than_reserved_are_degraded_but_fewer_than_load_asks_for_are_not() -> None:
    world = World()
    endpoint_id = running(world)
    wanted_after(world, endpoint_id, steady(16))
    world.plan()
    status = world.endpoint(endpoint_id).status
    assert (status.state, status.degraded) == (E.RUNNING, False)


def test_scaling_down_drains_the_youngest_and_keeps_the_others() -> None:
    world = World()
    endpoint_id = running(world)
    first = world.live(endpoint_id)[0].replica_id
    wanted_after(world, endpoint_id, steady(8))
    world.plan()
    world.all_ready(endpoint_id)
    wanted_after(world, endpoint_id, steady(1))
    assert [one.replica_id for one in world.live(endpoint_id)] == [first]
    draining = [one for one in world.endpoint(endpoint_id).replicas if one.state is S.DRAINING]
    assert [one.reason for one in draining] == ["scaled down"]


def test_a_failed_scale_up_touches_no_healthy_replica() -> None:
    world = World()
    endpoint_id = running(world)
    first = world.live(endpoint_id)[0].replica_id
    wanted_after(world, endpoint_id, steady(8))
    for _ in range(4):
        world.plan()
        world.crash(endpoint_id, code="OUT_OF_MEMORY", retryable=False)
        world.sleep(100)
    assert world.endpoint(endpoint_id).status.state is E.RUNNING
    assert [one.replica_id for one in world.live(endpoint_id)] == [first]


def test_nothing_is_taken_away_during_a_rollout() -> None:
    world = World()
    endpoint_id = running(world)
    wanted_after(world, endpoint_id, steady(8))
    world.plan()
    world.all_ready(endpoint_id)
    world.tell(endpoint_id, Update(redeployment=Redeployment(max_context=64)))
    assert world.endpoint(endpoint_id).rollout
    assert wanted_after(world, endpoint_id, steady(0)) == 2


def test_a_decision_that_is_overtaken_changes_nothing() -> None:
    world = World()
    endpoint_id = running(world)
    scale = autoscale(world.endpoint(endpoint_id), steady(16), POLICY)
    assert scale is not None
    late = Autoscale(scale.replicas, scale.why)
    world.tell(endpoint_id, Update(min_replicas=2))
    assert world.tell(endpoint_id, late) == []
    world.tell(endpoint_id, Stop())
    assert world.tell(endpoint_id, late) == []


@given(
    least=st.integers(0, 3),
    more=st.integers(0, 4),
    loads=st.lists(
        st.tuples(st.floats(0, 60), st.floats(0, 60), st.booleans(), st.integers(0, 900)),
        max_size=12,
    ),
)
def test_it_always_stays_within_its_bounds_and_one_decision_is_enough(
    least: int, more: int, loads: list[tuple[float, float, bool, int]]
) -> None:
    world = World()
    world.join(8)
    most = max(1, least + more)
    endpoint_id = world.create(scaling=Scaling(least, most))
    for one, other, covered, idle in loads:
        world.plan()
        world.all_ready(endpoint_id)
        low, high = sorted((one, other))
        load = Load(low, low, high if covered else None, timedelta(seconds=idle))
        wanted = wanted_after(world, endpoint_id, load)
        assert least <= wanted <= most
        assert wanted_after(world, endpoint_id, load) == wanted, "the same load, no flapping"


class TestDownToNothing:
    """An endpoint with no minimum."""

    def test_it_is_idle_from_the_beginning(self) -> None:
        world = World()
        world.join()
        endpoint_id = world.create(scaling=Scaling(0, 2))
        assert world.endpoint(endpoint_id).status.state is E.IDLE
        assert world.plan() == []

    def test_a_request_wakes_it_and_once_is_enough(self) -> None:
        world = World()
        world.join()
        endpoint_id = world.create(scaling=Scaling(0, 2))
        assert names(world.tell(endpoint_id, Wake())) == ["EndpointWoken", "EndpointQueued"]
        assert world.tell(endpoint_id, Wake()) == []
        world.plan()
        assert world.endpoint(endpoint_id).status.state is E.PROVISIONING
        world.all_ready(endpoint_id)
        assert world.endpoint(endpoint_id).status.state is E.RUNNING
        assert world.tell(endpoint_id, Wake()) == []

    def test_the_last_replica_goes_when_there_was_no_request_for_long_enough(self) -> None:
        world = World()
        endpoint_id = running(world, least=1)
        world.tell(endpoint_id, Update(min_replicas=0))
        assert len(world.live(endpoint_id)) == 1, "it may be serving"
        almost = IDLE_AFTER - timedelta(seconds=1)
        assert wanted_after(world, endpoint_id, steady(0, idle_for=almost)) == 1
        assert wanted_after(world, endpoint_id, steady(0, idle_for=IDLE_AFTER)) == 0
        endpoint = world.endpoint(endpoint_id)
        assert endpoint.status.state is E.IDLE
        assert [one.reason for one in endpoint.replicas] == ["idle"]
        world.finish_draining(endpoint_id)
        assert not world.endpoint(endpoint_id).holds_gpus

    def test_the_owner_says_how_long(self) -> None:
        world = World()
        endpoint_id = running(world)
        quick = Update(min_replicas=0, idle_after=timedelta(seconds=2))
        world.tell(endpoint_id, quick)
        load = steady(0, idle_for=timedelta(seconds=2))
        assert wanted_after(world, endpoint_id, load) == 0

    def test_it_wakes_while_the_last_one_still_drains(self) -> None:
        world = World()
        endpoint_id = running(world)
        world.tell(endpoint_id, Update(min_replicas=0))
        wanted_after(world, endpoint_id, steady(0, idle_for=IDLE_AFTER))
        world.tell(endpoint_id, Wake())
        world.plan()
        assert len(world.live(endpoint_id)) == 1
        assert world.endpoint(endpoint_id).status.state is E.PROVISIONING

    def test_what_failed_before_does_not_hold_up_the_next_wake(self) -> None:
        world = World()
        world.join()
        endpoint_id = world.create(scaling=Scaling(0, 1, timedelta(seconds=1)))
        world.tell(endpoint_id, Wake())
        world.plan()
        world.crash(endpoint_id)
        world.sleep(2)
        world.plan()
        world.all_ready(endpoint_id)
        wanted_after(world, endpoint_id, steady(0, idle_for=timedelta(seconds=1)))
        assert world.endpoint(endpoint_id).status.state is E.IDLE
        world.tell(endpoint_id, Wake())
        assert world.endpoint(endpoint_id).status.state is E.QUEUED
        world.plan()
        assert len(world.live(endpoint_id)) == 1

    def test_it_waits_where_there_is_no_room_and_says_for_what(self) -> None:
        world = World()
        world.join(1)
        running(world, most=1)
        endpoint_id = world.create(scaling=Scaling(0, 1))
        world.tell(endpoint_id, Wake())
        world.plan()
        status = world.endpoint(endpoint_id).status
        assert status.state is E.QUEUED
        assert status.reason == "waiting for a free GPU on a cpu node in local"

    def test_a_stopped_one_is_idle_again_when_it_is_restarted(self) -> None:
        world = World()
        endpoint_id = running(world)
        world.tell(endpoint_id, Update(min_replicas=0))
        world.tell(endpoint_id, Stop())
        assert world.tell(endpoint_id, Wake()) == []
        world.finish_draining(endpoint_id)
        world.tell(endpoint_id, Restart())
        assert world.endpoint(endpoint_id).status.state is E.IDLE

    def test_a_new_deployment_of_an_idle_one_needs_no_rollout(self) -> None:
        world = World()
        world.join()
        endpoint_id = world.create(scaling=Scaling(0, 1))
        world.tell(endpoint_id, Update(redeployment=Redeployment(max_context=64)))
        assert world.endpoint(endpoint_id).rollout is None
        world.tell(endpoint_id, Wake())
        world.plan()
        assert world.live(endpoint_id)[0].deployment.number == 2
