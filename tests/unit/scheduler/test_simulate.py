"""What would become of a fleet if something were otherwise, and that asking changes nothing."""

from collections import Counter
from copy import deepcopy

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule
from tests.unit.scheduler.test_fleet_properties import Fleet, _indexes
from tests.unit.scheduler.world import World

from engineshed.errors import DomainError
from engineshed.scheduler.domain.commands import Redeployment, Update
from engineshed.scheduler.domain.errors import EndpointNotFoundError, NodeNotFoundError
from engineshed.scheduler.domain.node import Inventory
from engineshed.scheduler.domain.outcome import Outcome
from engineshed.scheduler.domain.replica import ReplicaState
from engineshed.scheduler.domain.scaling import Scaling
from engineshed.scheduler.domain.score import Policy
from engineshed.scheduler.domain.simulate import (
    AddNodes,
    Change,
    DrainNode,
    LoseNode,
    ScaleEndpoint,
    Simulation,
    States,
    simulate,
)
from engineshed.scheduler.domain.view import View

S = ReplicaState
FOUR_GPUS = Inventory("", "local", "cpu", 4)


def what_if(world: World, *changes: Change, idle: frozenset[str] = frozenset()) -> Outcome:
    return simulate(States.of(world.view, idle), changes, Policy(), world.now)


def moves(outcome: Outcome) -> list[tuple[str, str, str]]:
    return [(one.endpoint.endpoint_id, one.from_node_id, one.to_node_id) for one in outcome.moves]


def waits(outcome: Outcome) -> list[tuple[str, int, bool]]:
    return [(one.endpoint.endpoint_id, one.missing, one.anyway) for one in outcome.waits]


def taken(outcome: Outcome) -> dict[str, tuple[int, int]]:
    return {one.node.node_id: (one.taken_before, one.taken_after) for one in outcome.nodes}


def test_what_is_on_a_drained_node_moves_where_there_is_room() -> None:
    world = World()
    drained, other = world.join(2), world.join(2)
    endpoint_id = world.running(2)

    outcome = what_if(world, DrainNode(drained))

    assert moves(outcome) == [(endpoint_id, drained, other)]
    assert outcome.moves[0].reason == "its node is being drained"
    assert (outcome.moves[0].gpu_count, outcome.settled) == (2, True)
    assert taken(outcome) == {drained: (2, 0), other: (0, 2)}
    assert not outcome.waits


def test_without_room_elsewhere_a_drained_node_keeps_what_serves_and_its_successor_waits() -> None:
    world = World()
    node_id = world.join(2)
    endpoint_id = world.running(2)

    outcome = what_if(world, DrainNode(node_id))

    assert not outcome.moves
    assert waits(outcome) == [(endpoint_id, 1, False)]
    assert outcome.waits[0].reason == (
        "waiting for a cpu node in local: all that are heard are cordoned"
    )
    assert taken(outcome) == {node_id: (2, 2)}


def test_a_node_that_dies_takes_its_replicas_with_it() -> None:
    world = World()
    lost, small = world.join(4), world.join(1)
    endpoint_ids = [world.running(2), world.running(2)]
    last = world.running(1)

    outcome = what_if(world, LoseNode(lost))

    assert moves(outcome) == [(one, lost, "") for one in endpoint_ids]
    assert "taken out of use" in outcome.moves[0].reason
    assert waits(outcome) == [(one, 1, False) for one in endpoint_ids]
    assert taken(outcome) == {small: (1, 1)}, "the node is no more"
    assert world.nodes_of(last) == [small]


def test_who_waits_gets_the_gpus_of_added_nodes_in_order_of_arrival() -> None:
    world = World()
    world.join(1)
    world.running()
    queue = [world.create(2) for _ in range(3)]
    world.plan()

    outcome = what_if(world, AddNodes(FOUR_GPUS, 1))

    added = outcome.nodes[-1].node
    assert added.inventory.hostname == "added 1"
    assert added.inventory.backends == frozenset({"torch"}), "as those that are known"
    assert moves(outcome) == [(one, "", added.node_id) for one in queue[:2]]
    assert waits(outcome) == [(queue[2], 1, True)]


def test_gpus_of_a_type_that_nobody_has_come_with_all_back_ends() -> None:
    outcome = what_if(World(), AddNodes(Inventory("", "fra", "h200", 8), 2))

    assert [one.node.inventory.hostname for one in outcome.nodes] == ["added 1", "added 2"]
    assert outcome.nodes[0].node.inventory.backends == {"torch", "tensorrt_llm"}


def test_more_replicas_take_what_is_free_and_wait_for_the_rest() -> None:
    world = World()
    node_id = world.join(3)
    endpoint_id = world.running()

    outcome = what_if(world, ScaleEndpoint(endpoint_id, min_replicas=4))

    assert moves(outcome) == [(endpoint_id, "", node_id)] * 2
    assert waits(outcome) == [(endpoint_id, 1, False)]


def test_a_lower_maximum_takes_away_what_load_has_added() -> None:
    world = World()
    node_id = world.join(3)
    endpoint_id = world.create(scaling=Scaling(1, 3))
    world.plan()
    world.all_ready(endpoint_id)
    world.grow(endpoint_id)

    outcome = what_if(world, ScaleEndpoint(endpoint_id, max_replicas=1))

    assert moves(outcome) == [(endpoint_id, node_id, "")]
    assert outcome.moves[0].reason == "scaled down"


def test_idle_replicas_that_load_has_added_make_room_for_reserved_ones_of_others() -> None:
    world = World()
    node_id = world.join(2)
    elastic = world.create(scaling=Scaling(1, 2))
    world.plan()
    world.all_ready(elastic)
    added = world.grow(elastic)
    other = world.create()

    busy = what_if(world)
    idle = what_if(world, idle=frozenset({added.replica_id}))

    assert (moves(busy), waits(busy)) == ([], [(other, 1, True)])
    assert sorted(moves(idle)) == sorted([(elastic, node_id, ""), (other, "", node_id)])
    assert [one.endpoint.endpoint_id for one in idle.waits] == [elastic]


def test_what_happens_anyway_is_not_told_of_a_change() -> None:
    world = World()
    node_id = world.join(4)
    elsewhere = world.join(4, region="fra")
    starting = world.create()

    nothing = what_if(world)
    drained = what_if(world, DrainNode(elsewhere))

    assert moves(nothing) == [(starting, "", node_id)]
    assert not drained.moves


def test_pauses_after_failures_are_over_at_once() -> None:
    world = World()
    node_id = world.join()
    endpoint_id = world.running()
    world.crash(endpoint_id)

    assert moves(what_if(world)) == [(endpoint_id, "", node_id)]


def test_a_rollout_is_led_to_its_end() -> None:
    world = World()
    world.join(3)
    endpoint_id = world.running(1, 2)
    world.tell(endpoint_id, Update(redeployment=Redeployment(max_context=512)))
    simulation = Simulation(States.of(world.view), Policy(), world.now)

    assert simulation.settle()
    after = simulation.view.endpoints[endpoint_id]
    assert after.rollout is None
    assert [one.deployment.number for one in after.occupying()] == [2, 2]


def test_changes_are_made_in_order() -> None:
    world = World()
    first = world.join(2)
    endpoint_id = world.running(2)

    outcome = what_if(world, AddNodes(FOUR_GPUS, 1), DrainNode(first))

    (move,) = outcome.moves
    assert (move.endpoint.endpoint_id, move.from_node_id) == (endpoint_id, first)
    assert move.to_node_id == outcome.nodes[-1].node.node_id


def test_what_is_not_there_cannot_be_changed() -> None:
    with pytest.raises(NodeNotFoundError):
        what_if(World(), DrainNode("node_1"))
    with pytest.raises(EndpointNotFoundError):
        what_if(World(), ScaleEndpoint("ep_1", min_replicas=2))


class SimulatedFleet(Fleet):
    """A fleet of which an operator asks now and then what would be."""

    @precondition(lambda self: self.world.view.nodes and self.world.view.endpoints)
    @rule(kind=st.sampled_from(["nothing", "add", "drain", "lose", "scale"]), index=st.integers(0))
    def operator_asks_what_if(self, kind: str, index: int) -> None:
        view, now = self.world.view, self.world.now
        before = deepcopy(_indexes(view))
        simulation = Simulation(States.of(view), Policy(), now)
        changes = self.changes(kind, index)
        try:
            for change in changes:
                simulation.make(change)
        except DomainError:  # as it would be in truth
            return
        assert simulation.settle()
        require_sound(simulation.view)

        outcome = simulate(States.of(view), changes, Policy(), now)
        again = simulate(States.of(view), changes, Policy(), now)
        assert (moves(outcome), waits(outcome), taken(outcome)) == (
            moves(again),
            waits(again),
            taken(again),
        )
        end = simulate(States.of(simulation.view), [], Policy(), simulation.now)
        assert not end.moves, "nothing is left to do"
        assert [one[:2] for one in waits(end)] == [one[:2] for one in waits(outcome)]
        assert _indexes(view) == before, "the live view is as it was"

    def changes(self, kind: str, index: int) -> list[Change]:
        nodes = list(self.world.view.nodes)
        endpoints = list(self.world.view.endpoints)
        match kind:
            case "add":
                return [AddNodes(FOUR_GPUS, 1 + index % 2)]
            case "drain":
                return [DrainNode(nodes[index % len(nodes)])]
            case "lose":
                return [LoseNode(nodes[index % len(nodes)])]
            case "scale":
                return [ScaleEndpoint(endpoints[index % len(endpoints)], min_replicas=index % 4)]
            case _:
                return []


def require_sound(view: View) -> None:
    """No GPU is held twice, and nothing is placed or drains that an agent could end."""
    held: Counter[tuple[str, int]] = Counter()
    for endpoint in view.endpoints.values():
        for replica in endpoint.occupying():
            held.update((replica.node_id, gpu) for gpu in replica.gpus)
            heard = view.nodes[replica.node_id].heard
            assert not heard or replica.state is S.READY
    assert all(count == 1 for count in held.values()), held


TestSimulatedFleet = SimulatedFleet.TestCase
TestSimulatedFleet.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
