"""What cordoning, draining and removing nodes does to endpoints."""

import pytest
from tests.unit.scheduler.world import CPU_QUEUE, World, names

from engineshed.scheduler.domain.desired import route_of
from engineshed.scheduler.domain.endpoint import EndpointState
from engineshed.scheduler.domain.filters import what_is_missing
from engineshed.scheduler.domain.node import Cordon, Drain, Uncordon
from engineshed.scheduler.domain.plan import Assign
from engineshed.scheduler.domain.replica import ReplicaState
from engineshed.scheduler.domain.view import View

S = ReplicaState


@pytest.fixture
def world() -> World:
    return World()


def ready(world: World, endpoint_id: str) -> None:
    """Let the newest replica be ready."""
    world.report(endpoint_id, world.live(endpoint_id)[-1].replica_id, S.READY)


@pytest.mark.parametrize("order", [Cordon(), Drain()])
class TestSetAside:
    def test_it_is_given_nothing_until_it_is_uncordoned(self, world: World, order: Cordon) -> None:
        node_id = world.join()
        world.order(node_id, order)
        endpoint_id = world.create()
        world.plan_incrementally()
        assert world.live(endpoint_id) == []
        world.order(node_id, Uncordon())
        world.plan_incrementally()
        assert world.nodes_of(endpoint_id) == [node_id]

    def test_what_has_to_wait_says_why_and_that_no_longer_once_it_is_lost(
        self, world: World, order: Cordon
    ) -> None:
        node_id = world.join()
        endpoint_id = world.create()
        world.order(node_id, order)
        for _ in range(2):
            world.plan_incrementally()
            reason = world.endpoint(endpoint_id).status.reason
            assert reason == "waiting for a cpu node in local: all that are heard are cordoned"
            missing = what_is_missing(world.view, world.endpoint(endpoint_id), world.now)
            assert missing.endswith(reason)
        world.lose(node_id)
        world.plan_incrementally()
        reason = world.endpoint(endpoint_id).status.reason
        assert reason == "waiting for a cpu node in local: none is heard"

    def test_its_replicas_stay_routed_and_known(self, world: World, order: Cordon) -> None:
        node_id = world.join()
        endpoint_id = world.running()
        world.order(node_id, order)
        world.plan()
        endpoint = world.endpoint(endpoint_id)
        assert len(route_of(endpoint, str).replicas) == 1
        assert list(world.view.holders(node_id)) == [0]

    def test_a_lost_one_that_returns_is_given_nothing(self, world: World, order: Cordon) -> None:
        node_id = world.join()
        world.order(node_id, order)
        world.lose(node_id)
        world.hear(node_id)
        endpoint_id = world.create()
        world.plan()
        assert world.live(endpoint_id) == []

    def test_its_agent_is_waited_for_after_a_start(self, world: World, order: Cordon) -> None:
        node_id = world.join()
        world.order(node_id, order)
        rebuilt = View()
        for stream, event, at in world.log:
            rebuilt.apply(stream, event, at)
        assert list(rebuilt.unreported()) == [node_id]

    def test_the_why_of_a_placement_counts_it(self, world: World, order: Cordon) -> None:
        world.order(world.join(), order)
        world.join(backends=frozenset({"python"}))
        world.lose(world.join())
        world.join()
        world.create()
        (decision,) = world.decide()
        assert isinstance(decision, Assign)
        (spot,) = decision.spots
        assert dict(spot.why.rejected) == {"not_heard": 1, "cordoned": 1, "backend": 1}

    def test_it_counts_as_part_of_the_fleet(self, world: World, order: Cordon) -> None:
        node_id = world.join()
        before = world.view.offers()
        world.order(node_id, order)
        assert world.view.offers() == before


class TestDraining:
    def test_a_replica_serves_until_its_replacement_elsewhere_does(self, world: World) -> None:
        old = world.join()
        endpoint_id = world.running()
        world.order(old, Drain())
        new = world.join()

        world.evacuate()
        assert list(world.view.to_evacuate()) == []
        world.plan()
        first, second = world.live(endpoint_id)
        assert (first.node_id, first.state) == (old, S.READY)
        assert second.node_id == new
        ready(world, endpoint_id)
        assert world.endpoint(endpoint_id).replica(first.replica_id).state is S.DRAINING  # type: ignore[union-attr]  # it is there
        assert world.endpoint(endpoint_id).status.state is EndpointState.RUNNING
        world.finish_draining(endpoint_id)
        assert world.view.holders(old) == {}
        assert world.nodes_of(endpoint_id) == [new]

    def test_without_room_elsewhere_nothing_is_taken_away(self, world: World) -> None:
        node_id = world.join()
        endpoint_id = world.running()
        world.order(node_id, Drain())
        world.evacuate()
        world.plan()
        endpoint = world.endpoint(endpoint_id)
        assert [one.state for one in world.live(endpoint_id)] == [S.READY]
        assert endpoint.status.state is EndpointState.RUNNING

    def test_what_came_late_is_replaced_too(self, world: World) -> None:
        node_id = world.join()
        world.create()
        decisions = world.decide()
        world.order(node_id, Drain())
        world.evacuate()
        world.carry_out(decisions)
        assert [one.node_id for _, one in world.view.to_evacuate()] == [node_id]

    def test_an_unheard_replica_is_not_told_to_leave_before_it_is_heard(self, world: World) -> None:
        node_id = world.join()
        world.running()
        world.lose(node_id)
        world.order(node_id, Drain())
        assert list(world.view.to_evacuate()) == []

    def test_ending_the_drain_leaves_the_others_where_they_are(self, world: World) -> None:
        node_id = world.join()
        world.running()
        world.order(node_id, Drain())
        assert len(list(world.view.to_evacuate())) == 1
        world.order(node_id, Cordon())
        assert list(world.view.to_evacuate()) == []


class TestLeaving:
    def test_its_replicas_are_tried_again_at_once_elsewhere(self, world: World) -> None:
        old = world.join()
        endpoint_id = world.running()
        new = world.join()
        for node_id, other in ((old, new), (new, old)):
            world.remove(node_id)
            world.join(node_id=other)
            world.plan()
            assert world.nodes_of(endpoint_id) == [other]
            ready(world, endpoint_id)
        assert world.endpoint(endpoint_id).failures == ()

    def test_it_can_be_removed_while_it_is_lost(self, world: World) -> None:
        node_id = world.join()
        endpoint_id = world.running()
        world.lose(node_id)
        world.remove(node_id)
        assert not world.endpoint(endpoint_id).holds_gpus
        assert world.view.holders(node_id) == {}

    def test_it_is_no_part_of_the_fleet_until_it_joins_again(self, world: World) -> None:
        node_id = world.join()
        world.remove(node_id)
        assert world.view.offers() == []
        assert world.view.pools(CPU_QUEUE) == []
        assert list(world.view.left_nodes) == [node_id]
        world.join(gpus=8, node_id=node_id)
        assert [offer.gpu_count for offer in world.view.offers()] == [8]
        assert list(world.view.left_nodes) == []

    def test_an_endpoint_is_not_given_up_because_its_hosts_are_removed(self, world: World) -> None:
        endpoint_id = ""
        for _ in range(4):
            node_id = world.join()
            endpoint_id = endpoint_id or world.create()
            world.plan()
            assert world.nodes_of(endpoint_id) == [node_id]
            world.remove(node_id)
        assert world.endpoint(endpoint_id).status.state is EndpointState.PROVISIONING
        assert names([event for _, event, _ in world.log]).count("EndpointFailed") == 0
