"""Nodes join, change, fall silent and return."""

from dataclasses import replace

from tests.unit.scheduler.world import START, names

from engineshed.api.scheduler.v1 import events_pb2 as pb
from engineshed.scheduler.domain.node import (
    Greet,
    Hear,
    Inventory,
    Miss,
    Node,
    NodeCommand,
    NodeState,
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
        "h", "eu", "h100-sxm", 8, 80 << 30, "550", True, frozenset({"torch", "python"}), "1.2"
    )
    assert inventory_of(message_of(inventory)) == inventory
