"""What agents report: states again and again, late, and after silence."""

from datetime import UTC, timedelta

import pytest
from tests.unit.scheduler.world import World, names

from engineshed.api.scheduler.v1 import events_pb2 as pb
from engineshed.scheduler.domain.commands import Lose, Report, Stop
from engineshed.scheduler.domain.desired import route_of
from engineshed.scheduler.domain.endpoint import EndpointState
from engineshed.scheduler.domain.replica import ReplicaState

E = EndpointState
S = ReplicaState


@pytest.fixture
def world() -> World:
    world = World()
    world.join(gpus=4)
    return world


def placed(world: World) -> tuple[str, str]:
    endpoint_id = world.create()
    world.plan()
    return endpoint_id, world.live(endpoint_id)[0].replica_id


def test_a_repeated_report_records_nothing(world: World) -> None:
    endpoint_id, replica_id = placed(world)
    assert names(world.report(endpoint_id, replica_id, S.BUILDING)) == ["ReplicaBuilding"]
    assert world.report(endpoint_id, replica_id, S.BUILDING) == []


def test_a_replica_never_goes_back(world: World) -> None:
    endpoint_id, replica_id = placed(world)
    world.report(endpoint_id, replica_id, S.READY)
    for late in (S.PLACED, S.FETCHING, S.BUILDING, S.LOADING, S.READY, S.LOST):
        assert world.report(endpoint_id, replica_id, late) == []


def test_stages_that_nobody_saw_are_skipped(world: World) -> None:
    endpoint_id, replica_id = placed(world)
    events = world.report(endpoint_id, replica_id, S.READY)
    assert names(events) == ["ReplicaReady", "EndpointRunning"]


def test_an_ended_replica_stays_ended(world: World) -> None:
    endpoint_id, replica_id = placed(world)
    world.report(endpoint_id, replica_id, S.FAILED, code="X")
    for late in (S.READY, S.FAILED, S.STOPPED):
        assert world.report(endpoint_id, replica_id, late) == []


def test_one_that_its_host_drains_leaves_the_route_and_is_replaced(world: World) -> None:
    endpoint_id, replica_id = placed(world)
    world.report(endpoint_id, replica_id, S.READY)
    world.sleep(30)

    events = world.tell(
        endpoint_id, Report(replica_id, S.DRAINING, world.now - timedelta(seconds=2))
    )
    world.plan()

    assert names(events) == ["ReplicaDraining", "EndpointQueued"]
    draining = events[0]
    assert isinstance(draining, pb.ReplicaDraining)
    assert draining.reason == "its host drains it"
    assert (world.now - draining.effective_at.ToDatetime(UTC)).total_seconds() == 2
    assert route_of(world.endpoint(endpoint_id), lambda _: "").replicas == []
    (replacement,) = world.live(endpoint_id)
    assert replacement.replica_id != replica_id
    assert world.report(endpoint_id, replica_id, S.DRAINING) == []
    assert names(world.report(endpoint_id, replica_id, S.STOPPED)) == ["ReplicaStopped"]


def test_one_that_its_host_drains_while_it_is_unheard_leaves_the_route_too(world: World) -> None:
    endpoint_id, replica_id = placed(world)
    world.report(endpoint_id, replica_id, S.READY)
    world.tell(endpoint_id, Lose((replica_id,), world.now))

    world.tell(endpoint_id, Report(replica_id, S.DRAINING, world.now))

    assert route_of(world.endpoint(endpoint_id), lambda _: "").replicas == []


def test_one_that_served_is_not_starting_again_after_it_was_lost(world: World) -> None:
    endpoint_id, replica_id = placed(world)
    world.report(endpoint_id, replica_id, S.READY)
    world.tell(endpoint_id, Lose((replica_id,), world.now))

    for early in (S.FETCHING, S.BUILDING, S.LOADING):
        assert world.report(endpoint_id, replica_id, early) == []


def test_one_that_never_served_is_not_drained_by_its_host(world: World) -> None:
    endpoint_id, replica_id = placed(world)
    world.report(endpoint_id, replica_id, S.LOADING)

    assert world.tell(endpoint_id, Report(replica_id, S.DRAINING, world.now)) == []


def test_one_that_is_failing_is_not_taken_for_drained(world: World) -> None:
    endpoint_id, replica_id = placed(world)
    world.report(endpoint_id, replica_id, S.READY)

    assert world.report(endpoint_id, replica_id, S.DRAINING, code="TRITON_DIED") == []

    world.report(endpoint_id, replica_id, S.FAILED, code="TRITON_DIED")
    assert [one.code for one in world.endpoint(endpoint_id).failures] == ["TRITON_DIED"]


def test_a_draining_replica_is_not_called_ready_by_a_late_report(world: World) -> None:
    endpoint_id, replica_id = placed(world)
    world.tell(endpoint_id, Stop())
    assert world.report(endpoint_id, replica_id, S.READY) == []


def test_times_are_those_that_the_agent_measured(world: World) -> None:
    endpoint_id, replica_id = placed(world)
    world.sleep(60)
    (event, _) = world.report(endpoint_id, replica_id, S.READY, age=20)
    assert isinstance(event, pb.ReplicaReady)
    assert (world.now - event.effective_at.ToDatetime(UTC)).total_seconds() == 20


def test_no_fact_is_before_the_one_that_it_follows(world: World) -> None:
    endpoint_id, replica_id = placed(world)
    world.sleep(10)
    world.report(endpoint_id, replica_id, S.LOADING, age=3600)
    loading = world.endpoint(endpoint_id).replica(replica_id)
    assert loading is not None
    assert loading.changed_at == loading.placed_at

    world.report(endpoint_id, replica_id, S.READY, age=5)
    events = world.report(endpoint_id, replica_id, S.FAILED, age=8, code="X")
    assert isinstance(events[0], pb.ReplicaFailed)
    assert (world.now - events[0].effective_at.ToDatetime(UTC)).total_seconds() == 5


def test_an_age_below_zero_does_not_reach_into_the_future(world: World) -> None:
    endpoint_id, replica_id = placed(world)
    (event, _) = world.report(endpoint_id, replica_id, S.READY, age=-30)
    assert isinstance(event, pb.ReplicaReady)
    assert event.effective_at.ToDatetime(UTC) == world.now


def test_a_lost_replica_ends_its_time_when_it_was_last_heard(world: World) -> None:
    endpoint_id, replica_id = placed(world)
    world.report(endpoint_id, replica_id, S.READY)
    heard_at = world.now
    world.sleep(3600)
    events = world.tell(endpoint_id, Lose((replica_id,), heard_at))
    assert isinstance(events[0], pb.ReplicaLost)
    assert events[0].effective_at.ToDatetime(UTC) == heard_at


class TestWhenANodeIsNotHeard:
    def test_its_replicas_are_lost_and_replaced_on_another_node(self, world: World) -> None:
        endpoint_id = world.running()
        (node_id,) = world.nodes_of(endpoint_id)
        other = world.join(gpus=4)
        world.lose(node_id)
        assert world.endpoint(endpoint_id).status.state is E.PROVISIONING

        world.plan()
        assert world.nodes_of(endpoint_id) == [other]

    def test_the_lost_one_serves_until_its_replacement_is_ready(self, world: World) -> None:
        endpoint_id = world.running()
        (lost,) = world.live(endpoint_id)
        world.join(gpus=4)
        world.lose(lost.node_id)
        world.plan()
        (replacement,) = world.live(endpoint_id)
        assert [one.replica_id for one in world.endpoint(endpoint_id).replicas if one.routable] == [
            lost.replica_id
        ]

        events = world.report(endpoint_id, replacement.replica_id, S.READY)
        assert names(events) == ["ReplicaReady", "ReplicaDraining", "EndpointRunning"]
        assert [one.replica_id for one in world.endpoint(endpoint_id).replicas if one.routable] == [
            replacement.replica_id
        ]

    def test_its_gpus_stay_taken_until_the_agent_says_the_process_is_gone(
        self, world: World
    ) -> None:
        endpoint_id = world.running(gpus=4)
        (lost,) = world.live(endpoint_id)
        world.lose(lost.node_id)
        waiting = world.create(gpus=4)
        world.hear(lost.node_id)
        world.plan()
        assert world.live(waiting) == []

        world.report(endpoint_id, lost.replica_id, S.FAILED, code="NODE_RESTARTED")
        world.tell(endpoint_id, Stop())
        world.plan()
        assert len(world.live(waiting)) == 1

    def test_one_that_nothing_replaced_is_found_again(self, world: World) -> None:
        endpoint_id = world.running()
        (lost,) = world.live(endpoint_id)
        world.lose(lost.node_id)
        world.plan()
        assert world.live(endpoint_id) == []

        world.hear(lost.node_id)
        events = world.report(endpoint_id, lost.replica_id, S.READY, age=500)
        assert names(events) == ["ReplicaFound", "EndpointRunning"]
        assert isinstance(events[0], pb.ReplicaFound)
        assert events[0].effective_at.ToDatetime(UTC) == world.now

    def test_a_found_one_sends_its_unfinished_replacement_away(self, world: World) -> None:
        endpoint_id = world.running()
        (lost,) = world.live(endpoint_id)
        world.join(gpus=4)
        world.lose(lost.node_id)
        world.plan()
        (replacement,) = world.live(endpoint_id)

        world.hear(lost.node_id)
        events = world.report(endpoint_id, lost.replica_id, S.READY)
        assert names(events) == ["ReplicaFound", "ReplicaDraining", "EndpointRunning"]
        assert [one.replica_id for one in world.live(endpoint_id)] == [lost.replica_id]
        assert replacement.replica_id != lost.replica_id

    def test_one_that_became_ready_unheard_is_ready_from_then(self, world: World) -> None:
        endpoint_id, replica_id = placed(world)
        world.report(endpoint_id, replica_id, S.LOADING)
        (node_id,) = world.nodes_of(endpoint_id)
        world.lose(node_id)
        world.sleep(100)
        world.hear(node_id)
        events = world.report(endpoint_id, replica_id, S.READY, age=30)
        assert names(events) == ["ReplicaReady", "EndpointRunning"]
        assert isinstance(events[0], pb.ReplicaReady)
        assert (world.now - events[0].effective_at.ToDatetime(UTC)).total_seconds() == 30

    def test_one_that_was_building_goes_on_building(self, world: World) -> None:
        endpoint_id, replica_id = placed(world)
        world.report(endpoint_id, replica_id, S.BUILDING)
        (node_id,) = world.nodes_of(endpoint_id)
        world.lose(node_id)
        world.hear(node_id)
        events = world.report(endpoint_id, replica_id, S.BUILDING)
        assert names(events) == ["ReplicaBuilding", "EndpointProvisioning"]

    def test_an_endpoint_that_may_still_serve_is_not_failed_by_its_replacement(
        self, world: World
    ) -> None:
        endpoint_id = world.running()
        (lost,) = world.live(endpoint_id)
        world.join(gpus=4)
        world.lose(lost.node_id)
        world.plan()
        world.crash(endpoint_id, retryable=False)
        assert not world.endpoint(endpoint_id).ended

    def test_stopping_it_waits_for_the_node(self, world: World) -> None:
        endpoint_id = world.running()
        (lost,) = world.live(endpoint_id)
        world.lose(lost.node_id)
        world.tell(endpoint_id, Stop())
        assert world.endpoint(endpoint_id).status.state is E.STOPPING

        world.hear(lost.node_id)
        world.report(endpoint_id, lost.replica_id, S.STOPPED)
        assert world.endpoint(endpoint_id).status.state is E.STOPPED

    def test_a_loss_told_twice_is_recorded_once(self, world: World) -> None:
        endpoint_id = world.running()
        (lost,) = world.live(endpoint_id)
        world.lose(lost.node_id)
        assert world.tell(endpoint_id, Lose((lost.replica_id,), world.now)) == []
