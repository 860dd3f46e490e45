"""Who gets which GPUs, who waits for what, and why."""

import pytest
from tests.unit.scheduler.world import CPU_QUEUE, World

from engineshed.api.scheduler.v1 import events_pb2 as pb
from engineshed.scheduler.domain.commands import Stop, Update
from engineshed.scheduler.domain.endpoint import EndpointState
from engineshed.scheduler.domain.filters import what_is_missing
from engineshed.scheduler.domain.plan import Assign, Postpone
from engineshed.scheduler.domain.replica import ReplicaState, Serving

E = EndpointState
S = ReplicaState


@pytest.fixture
def world() -> World:
    return World()


def assigned(world: World, endpoint_id: str) -> Assign:
    (decision,) = [one for one in world.decide() if one.endpoint_id == endpoint_id]
    assert isinstance(decision, Assign)
    return decision


class TestChoosingANode:
    def test_the_node_with_the_fewest_gpus_left_over_is_taken(self, world: World) -> None:
        world.join(gpus=8)
        tight = world.join(gpus=2)
        world.join(gpus=4)
        endpoint_id = world.create(gpus=2)
        world.plan()
        assert world.nodes_of(endpoint_id) == [tight]

    def test_replicas_of_one_endpoint_are_spread_over_nodes(self, world: World) -> None:
        nodes = {world.join(gpus=4) for _ in range(3)}
        endpoint_id = world.create(replicas=3)
        world.plan()
        assert set(world.nodes_of(endpoint_id)) == nodes

    def test_they_share_a_node_rather_than_wait(self, world: World) -> None:
        world.join(gpus=4)
        endpoint_id = world.create(replicas=4)
        world.plan()
        assert len(world.live(endpoint_id)) == 4

    def test_one_replica_gets_all_its_gpus_on_one_node(self, world: World) -> None:
        world.join(gpus=3)
        world.join(gpus=3)
        endpoint_id = world.create(gpus=4)
        world.plan()
        assert world.live(endpoint_id) == []

    def test_the_lowest_free_gpus_are_taken(self, world: World) -> None:
        world.join(gpus=4)
        first = world.create(gpus=1)
        second = world.create(gpus=2)
        world.plan()
        assert world.live(first)[0].gpus == (0,)
        assert world.live(second)[0].gpus == (1, 2)

    def test_other_regions_types_and_back_ends_are_no_choice(self, world: World) -> None:
        world.join(gpus=8, region="elsewhere")
        world.join(gpus=8, gpu_type="h100-sxm")
        world.join(gpus=8, backends=frozenset({"python"}))
        world.join(gpus=8, backends=frozenset({"torch"}))
        endpoint_id = world.create(serving=Serving(quantization="fp8"))
        world.plan()
        assert world.live(endpoint_id) == []
        able = world.join(gpus=8, backends=frozenset({"torch", "tensorrt_llm"}))
        world.plan()
        assert world.nodes_of(endpoint_id) == [able]

    def test_nodes_with_different_back_ends_are_chosen_from_as_one(self, world: World) -> None:
        world.join(gpus=4, backends=frozenset({"torch", "tensorrt_llm"}))
        tight = world.join(gpus=2, backends=frozenset({"torch"}))
        endpoint_id = world.create(gpus=2)
        world.plan()
        assert world.nodes_of(endpoint_id) == [tight]

        world.create(gpus=4)
        world.create(gpus=4)
        world.plan()
        small = world.create(gpus=1)
        world.plan()
        assert world.live(small) == [], "the emptiest of all is kept for the head"

    def test_an_unheard_node_is_no_choice_until_it_is_heard(self, world: World) -> None:
        node_id = world.join()
        world.lose(node_id)
        endpoint_id = world.create()
        world.plan()
        status = world.endpoint(endpoint_id).status
        assert status.reason == "waiting for a cpu node in local: none is heard"
        world.hear(node_id)
        world.plan()
        assert world.nodes_of(endpoint_id) == [node_id]

    def test_a_node_is_given_nothing_before_its_agent_has_said_what_it_runs(
        self, world: World
    ) -> None:
        node_id = world.join()
        world.lose(node_id)
        world.record(f"node/{node_id}", [pb.NodeReturned(node_id=node_id)])
        assert list(world.view.unreported()) == [node_id]
        endpoint_id = world.create()
        world.plan()
        assert world.live(endpoint_id) == []
        world.view.note_report(node_id)
        world.plan()
        assert world.nodes_of(endpoint_id) == [node_id]

    def test_gpus_that_an_agent_reports_in_use_are_not_given_away(self, world: World) -> None:
        node_id = world.join(gpus=4)
        world.view.note_report(node_id, [0, 1, 2])
        endpoint_id = world.create(gpus=2)
        world.plan()
        assert world.live(endpoint_id) == []
        world.view.note_report(node_id, [0])
        world.plan()
        assert world.live(endpoint_id)[0].gpus == (1, 2)

    def test_a_node_that_changed_its_kind_is_found_under_the_new_one(self, world: World) -> None:
        node_id = world.join(gpus=4)
        world.join(gpus=8, gpu_type="h100-sxm", node_id=node_id)
        old, new = world.create(), world.create(gpus=8, gpu_type="h100-sxm")
        world.plan()
        assert world.nodes_of(old) == []
        assert world.nodes_of(new) == [node_id]


class TestTheWhy:
    def test_it_names_the_best_five_and_what_turned_the_others_away(self, world: World) -> None:
        for _ in range(7):
            world.join(gpus=4)
        best = world.join(gpus=1)
        world.join(gpus=8, region="elsewhere")
        world.join(gpus=8, gpu_type="h100-sxm")
        world.join(gpus=8, backends=frozenset({"python"}))
        world.lose(world.join(gpus=8))
        (spot,) = assigned(world, world.create()).spots

        assert next(one.node_id for one in spot.why.candidates) == best
        assert len(spot.why.candidates) == 5
        assert [one.score for one in spot.why.candidates] == [0, -3, -3, -3, -3]
        assert dict(spot.why.rejected) == {
            "region": 1,
            "gpu_type": 1,
            "not_heard": 1,
            "backend": 1,
        }
        assert spot.why.policy_version == "pack-spread-reclaim-1"

    def test_it_counts_the_nodes_that_are_full_or_kept(self, world: World) -> None:
        small, large = world.join(gpus=1), world.join(gpus=4)
        world.running()
        world.running()
        assert world.view.nodes[small]
        world.create(gpus=4)
        free = world.join(gpus=2)
        (spot,) = assigned(world, world.create(gpus=2)).spots
        assert spot.node_id == free
        assert dict(spot.why.rejected) == {"gpus_taken": 1, "kept_for_head_of_queue": 1}
        assert large


class TestTheQueue:
    def test_who_came_first_is_served_first(self, world: World) -> None:
        first = world.create(gpus=4)
        world.sleep(1)
        second = world.create(gpus=4)
        world.join(gpus=4)
        world.plan()
        assert (len(world.live(first)), len(world.live(second))) == (1, 0)

    def test_places_in_the_queue_are_counted_from_one(self, world: World) -> None:
        node_id = world.join(gpus=1)
        waiting = []
        for _ in range(3):
            waiting.append(world.create())
            world.sleep(1)
        positions = [world.view.queue_position(world.endpoint(one)) for one in waiting]
        assert positions == [1, 2, 3]
        world.plan()
        positions = [world.view.queue_position(world.endpoint(one)) for one in waiting]
        assert positions == [0, 1, 2]
        assert node_id

    def test_a_small_one_passes_a_large_one_that_it_does_not_hinder(self, world: World) -> None:
        world.join(gpus=4)
        world.running(gpus=2)
        world.join(gpus=1)
        large = world.create(gpus=4)
        world.sleep(1)
        small = world.create(gpus=1)
        world.plan()
        assert (len(world.live(large)), len(world.live(small))) == (0, 1)

    def test_the_room_of_the_head_of_the_queue_is_never_taken(self, world: World) -> None:
        node_id = world.join(gpus=4)
        tenant = world.running(gpus=3)
        large = world.create(gpus=4)
        for _ in range(5):
            world.sleep(1)
            world.create(gpus=1)
        world.plan()
        assert len(world.view.holders(node_id)) == 3, "the free GPU is kept"

        world.tell(tenant, Stop())
        world.plan()
        assert len(world.view.holders(node_id)) == 3, "it is being emptied for the head"
        world.finish_draining(tenant)
        world.plan()
        assert world.nodes_of(large) == [node_id]

    def test_what_the_head_will_not_need_of_its_node_may_be_used(self, world: World) -> None:
        node_id = world.join(gpus=8)
        tenant = world.running(gpus=6)
        large = world.create(gpus=4)
        world.sleep(1)
        small = [world.create(gpus=1) for _ in range(3)]
        world.plan()
        assert [len(world.live(one)) for one in small] == [0, 0, 0]

        world.tell(tenant, Stop())  # 2 free, 6 soon: 4 are over
        world.plan()
        assert [len(world.live(one)) for one in small] == [1, 1, 0]
        world.finish_draining(tenant)
        world.plan()
        assert world.nodes_of(large) == [node_id]
        assert [len(world.live(one)) for one in small] == [1, 1, 1]

    def test_the_node_that_fits_soonest_is_kept(self, world: World) -> None:
        full, draining, half = (world.join(gpus=4) for _ in range(3))
        tenants = [world.running(gpus=4) for _ in range(2)]
        (node_id,) = world.nodes_of(tenants[0])
        world.running(gpus=2)
        world.create(gpus=4)
        world.sleep(1)
        small = world.create(gpus=2)
        world.tell(tenants[0], Stop())
        world.plan()
        assert len(world.live(small)) == 1, "the draining node is kept, not the half-empty one"
        assert world.nodes_of(small) != [node_id]
        assert {full, draining, half}

    def test_a_drain_that_begins_lets_the_queue_be_planned_anew(self, world: World) -> None:
        world.join(gpus=4)
        tenant = world.running(gpus=4)
        world.join(gpus=4)
        world.running(gpus=2)
        world.create(gpus=4)
        world.sleep(1)
        small = world.create(gpus=2)
        while world.plan_incrementally():
            pass
        assert world.live(small) == [], "the half-empty node is kept for the head"

        world.tell(tenant, Stop())
        world.plan_incrementally()
        assert len(world.live(small)) == 1, "the draining one will be empty sooner"

    def test_only_a_node_that_is_large_enough_is_kept(self, world: World) -> None:
        world.join(gpus=8)
        world.running(gpus=8)
        small_node = world.join(gpus=2)
        world.create(gpus=4)
        world.sleep(1)
        small = world.create(gpus=2)
        world.plan()
        assert world.nodes_of(small) == [small_node]

    def test_one_that_pauses_after_a_failure_keeps_nothing(self, world: World) -> None:
        world.join(gpus=4)
        failed = world.running(gpus=4)
        world.crash(failed)
        other = world.create(gpus=1)
        world.plan()
        assert len(world.live(other)) == 1

    def test_scaling_up_stands_at_the_end_of_the_queue(self, world: World) -> None:
        world.join(gpus=1)
        old = world.running()
        world.sleep(1)
        waiting = world.create()
        world.sleep(1)
        world.tell(old, Update(min_replicas=2, max_replicas=2))
        assert [one.endpoint_id for one in world.view.queue(CPU_QUEUE)] == [waiting, old]

    def test_scaling_up_what_waits_already_keeps_its_place(self, world: World) -> None:
        first = world.create()
        world.sleep(1)
        second = world.create()
        world.sleep(1)
        world.tell(first, Update(min_replicas=2, max_replicas=2))
        assert [one.endpoint_id for one in world.view.queue(CPU_QUEUE)] == [first, second]

    def test_a_lost_replica_is_made_good_in_the_order_of_arrival(self, world: World) -> None:
        world.join(gpus=1)
        old = world.running()
        world.sleep(1)
        waiting = world.create()
        world.crash(old, code="NODE_RESTARTED")
        assert [one.endpoint_id for one in world.view.queue(CPU_QUEUE)] == [old, waiting]

    def test_queues_of_other_types_do_not_wait_for_each_other(self, world: World) -> None:
        world.create(gpus=8)
        world.join(gpus=8, gpu_type="h100-sxm")
        other = world.create(gpus=1, gpu_type="h100-sxm")
        world.plan()
        assert len(world.live(other)) == 1

    def test_part_of_the_replicas_is_placed_when_not_all_fit(self, world: World) -> None:
        world.join(gpus=2)
        endpoint_id = world.create(replicas=3)
        decisions = world.plan()
        assert len(world.live(endpoint_id)) == 2
        assert not any(isinstance(decision, Postpone) for decision in decisions)
        assert world.endpoint(endpoint_id).status.state is E.PROVISIONING

    def test_what_is_missing_of_a_part_is_told_with_its_reason(self, world: World) -> None:
        world.join(gpus=2)
        endpoint_id = world.create(replicas=4)
        world.plan()

        def missing() -> str:
            return what_is_missing(world.view, world.endpoint(endpoint_id), world.now)

        waiting = "waiting for a free GPU on a cpu node in local"
        assert missing() == f"2 of 4 replicas are not placed: {waiting}"
        world.join(gpus=1)
        world.plan()
        assert missing() == f"1 of 4 replicas is not placed: {waiting}"

        for replica in world.live(endpoint_id):
            world.report(endpoint_id, replica.replica_id, S.READY)
        world.join(gpus=1)
        world.crash(endpoint_id)
        assert (
            missing() == "2 of 4 replicas are not placed: trying again after TRITON_DIED: because"
        )
        world.sleep(1)
        assert missing() == "2 of 4 replicas are not placed: waiting to be placed"
        world.plan()
        assert missing() == ""

    def test_a_decision_that_came_too_late_places_nothing(self, world: World) -> None:
        world.join()
        endpoint_id = world.create()
        decisions = world.decide()
        world.tell(endpoint_id, Stop())
        world.carry_out(decisions)
        assert world.live(endpoint_id) == []
