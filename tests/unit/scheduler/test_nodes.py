"""Nodes join, change, fall silent, return, and are taken out of use."""

from dataclasses import replace

import pytest
from tests.unit.scheduler.world import START, names

from engineshed.api.scheduler.v1 import events_pb2 as pb
from engineshed.scheduler.domain.errors import NodeInUseError, WrongNodeStateError
from engineshed.scheduler.domain.node import (
    Cordon,
    Drain,
    Greet,
    Hear,
    Inventory,
    Miss,
    Node,
    NodeCommand,
    NodeState,
    Remove,
    Uncordon,
    decide,
    evolve,
    inventory_of,
    message_of,
)

INVENTORY = Inventory("host", "local", "cpu", 4, backends=frozenset({"torch"}))
GREET = Greet("node_1", INVENTORY)


def after(*commands: NodeCommand) -> Node | None:
    node: Node | None = None
    for command in commands:
        for event in decide(node, command):
            node = evolve(node, event, START)
    return node


def known(*commands: NodeCommand) -> Node:
    node = after(*commands)
    assert node is not None
    return node


def test_a_node_joins_once() -> None:
    assert names(decide(None, GREET)) == ["NodeJoined"]
    assert decide(after(GREET), GREET) == []


def test_it_says_when_it_offers_something_else() -> None:
    changed = Greet("node_1", replace(INVENTORY, gpu_count=8))
    assert names(decide(after(GREET), changed)) == ["NodeChanged"]
    node = after(GREET, changed)
    assert node is not None
    assert node.inventory.gpu_count == 8


def test_silence_is_recorded_once_with_the_time_of_the_last_word() -> None:
    (event,) = decide(after(GREET), Miss(START))
    assert isinstance(event, pb.NodeLost)
    assert event.heard_at.ToDatetime(START.tzinfo) == START
    assert decide(after(GREET, Miss(START)), Miss(START)) == []


def test_any_word_brings_it_back() -> None:
    lost = after(GREET, Miss(START))
    assert names(decide(lost, Hear())) == ["NodeReturned"]
    assert names(decide(lost, GREET)) == ["NodeReturned"]
    assert decide(after(GREET), Hear()) == []
    returned = after(GREET, Miss(START), Hear())
    assert returned is not None
    assert returned.state is NodeState.JOINED


def test_it_may_come_back_with_something_else() -> None:
    changed = Greet("node_1", replace(INVENTORY, gpu_count=8))
    assert names(decide(after(GREET, Miss(START)), changed)) == ["NodeReturned", "NodeChanged"]


def test_inventories_travel_whole() -> None:
    inventory = Inventory(
        "h", "eu", "h100-sxm", 8, 80 << 30, "550", True, frozenset({"torch", "python"}), "1.2",
        "NVIDIA H100", "9.0", ("GPU-a", "GPU-b"), frozenset({("tensorrt_llm", "1.2.1")}),
    )  # fmt: skip
    assert inventory_of(message_of(inventory)) == inventory


class TestTakingAHostOutOfUse:
    def test_each_order_is_recorded_once_with_its_reason(self) -> None:
        for order, name, state in (
            (Cordon("fans"), "NodeCordoned", NodeState.CORDONED),
            (Drain("fans"), "NodeDraining", NodeState.DRAINING),
        ):
            (event,) = decide(after(GREET), order)
            assert (type(event).__name__, getattr(event, "reason", "")) == (name, "fans")
            node = known(GREET, order)
            assert (node.state, node.reason, node.takes_replicas) == (state, "fans", False)
            assert decide(node, order) == []
            assert decide(node, replace(order, reason="")) == []
            assert names(decide(node, replace(order, reason="power"))) == [name]

    def test_uncordoning_ends_a_cordon_and_a_drain(self) -> None:
        assert decide(after(GREET), Uncordon()) == []
        for order in (Cordon("fans"), Drain("fans")):
            assert names(decide(after(GREET, order), Uncordon())) == ["NodeUncordoned"]
            node = known(GREET, order, Uncordon())
            assert (node.state, node.reason) == (NodeState.JOINED, "")

    def test_a_cordoned_node_can_be_drained_and_a_draining_one_be_merely_cordoned(self) -> None:
        assert known(GREET, Cordon(), Drain()).state is NodeState.DRAINING
        assert known(GREET, Drain(), Cordon()).state is NodeState.CORDONED

    def test_what_it_is_for_outlives_silence(self) -> None:
        for order, state in ((Cordon(), NodeState.CORDONED), (Drain(), NodeState.DRAINING)):
            assert names(decide(after(GREET, order), Miss(START))) == ["NodeLost"]
            assert known(GREET, order, Miss(START)).state is NodeState.LOST
            assert known(GREET, order, Miss(START), Hear()).state is state
            assert known(GREET, Miss(START), order, GREET).state is state

    def test_it_is_not_removed_from_under_replicas_unless_by_force(self) -> None:
        with pytest.raises(NodeInUseError, match="rep_1, rep_2; drain it"):
            decide(after(GREET), Remove(("rep_1", "rep_2")))
        for order in (Remove(()), Remove(("rep_1",), force=True)):
            assert names(decide(after(GREET), order)) == ["NodeLeft"]
            node = known(GREET, order)
            assert (node.state, node.heard) == (NodeState.LEFT, False)
            assert decide(node, order) == []

    def test_one_that_has_left_is_neither_lost_nor_cordoned(self) -> None:
        left = known(GREET, Cordon(), Miss(START), Remove(()))
        assert left.state is NodeState.LEFT
        assert decide(left, Miss(START)) == decide(left, Hear()) == []
        for order in (Cordon(), Drain(), Uncordon()):
            with pytest.raises(WrongNodeStateError, match="joins again"):
                decide(left, order)

    def test_its_agents_greeting_brings_it_back_to_full_use(self) -> None:
        left = known(GREET, Cordon("fans"), Remove((), reason="sold"))
        assert left.reason == "sold"
        changed = Greet("node_1", replace(INVENTORY, gpu_count=8))
        assert names(decide(left, changed)) == ["NodeJoined"]
        node = known(GREET, Cordon("fans"), Remove(()), changed)
        assert (node.state, node.reason) == (NodeState.JOINED, "")
        assert node.inventory.gpu_count == 8
