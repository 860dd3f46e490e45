"""Node: a GPU host with its agent. Joined when it is heard, lost when it is not."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import IntEnum
from typing import TypeAlias, assert_never

from engineshed.api.scheduler.v1 import events_pb2 as pb
from engineshed.api.scheduler.v1 import node_service_pb2 as api
from engineshed.scheduler.domain.errors import NodeNotFoundError

NodeEvent: TypeAlias = pb.NodeJoined | pb.NodeChanged | pb.NodeLost | pb.NodeReturned


class NodeState(IntEnum):
    """Where a node is in its life; the numbers are those of `Node.State`."""

    JOINED = 1
    CORDONED = 2
    DRAINING = 3
    LEFT = 4
    LOST = 5


@dataclass(frozen=True, slots=True)
class Inventory:
    """What a host offers."""

    hostname: str
    region: str
    gpu_type: str
    gpu_count: int
    gpu_memory_bytes: int = 0  # of each GPU
    driver: str = ""
    simulated: bool = False
    backends: frozenset[str] = frozenset()
    agent_version: str = ""


@dataclass(frozen=True, slots=True)
class Node:
    """A GPU host."""

    node_id: str
    inventory: Inventory
    joined_at: datetime
    revision: int  # events in its stream
    state: NodeState = NodeState.JOINED
    heard_at: datetime | None = None  # when it was last heard, of one that is lost


@dataclass(frozen=True, slots=True)
class Greet:
    """Its agent has said what it offers."""

    node_id: str
    inventory: Inventory


@dataclass(frozen=True, slots=True)
class Hear:
    """Its agent has said something."""


@dataclass(frozen=True, slots=True)
class Miss:
    """Its agent has said nothing for the length of a lease."""

    heard_at: datetime


NodeCommand: TypeAlias = Greet | Hear | Miss


def decide(state: Node | None, command: NodeCommand) -> list[NodeEvent]:
    """Return what `command` makes true; an empty list means it already was."""
    if isinstance(command, Greet):
        return _greet(state, command)
    if state is None:
        raise NodeNotFoundError("there is no such node")
    match command:
        case Hear():
            lost = state.state is NodeState.LOST
            return [pb.NodeReturned(node_id=state.node_id)] if lost else []
        case Miss():
            if state.state is not NodeState.JOINED:
                return []
            event = pb.NodeLost(node_id=state.node_id)
            event.heard_at.FromDatetime(command.heard_at)
            return [event]
        case _:
            assert_never(command)


def evolve(state: Node | None, event: NodeEvent, at: datetime) -> Node:
    """Fold one event, recorded at `at`, into the state; never refuses."""
    if state is None:
        assert isinstance(event, pb.NodeJoined), "a node's stream starts with NodeJoined"
        return Node(event.node_id, inventory_of(event.inventory), at, revision=1)
    state = replace(state, revision=state.revision + 1)
    match event:
        case pb.NodeJoined():
            return replace(state, inventory=inventory_of(event.inventory), state=NodeState.JOINED)
        case pb.NodeChanged():
            return replace(state, inventory=inventory_of(event.inventory))
        case pb.NodeLost():
            heard_at = event.heard_at.ToDatetime(tzinfo=UTC)
            return replace(state, state=NodeState.LOST, heard_at=heard_at)
        case pb.NodeReturned():
            return replace(state, state=NodeState.JOINED)
        case _:
            assert_never(event)


def inventory_of(message: api.NodeInventory) -> Inventory:
    """Return what a message says that a host offers."""
    return Inventory(
        hostname=message.hostname,
        region=message.region,
        gpu_type=message.gpu_type,
        gpu_count=message.gpu_count,
        gpu_memory_bytes=message.gpu_memory_bytes,
        driver=message.driver,
        simulated=message.simulated,
        backends=frozenset(message.backends),
        agent_version=message.agent_version,
    )


def message_of(inventory: Inventory) -> api.NodeInventory:
    """Return the message that says what a host offers."""
    return api.NodeInventory(
        hostname=inventory.hostname,
        region=inventory.region,
        gpu_type=inventory.gpu_type,
        gpu_count=inventory.gpu_count,
        gpu_memory_bytes=inventory.gpu_memory_bytes,
        driver=inventory.driver,
        simulated=inventory.simulated,
        backends=sorted(inventory.backends),
        agent_version=inventory.agent_version,
    )


def _greet(state: Node | None, command: Greet) -> list[NodeEvent]:
    if state is None:
        joined = pb.NodeJoined(node_id=command.node_id, inventory=message_of(command.inventory))
        return [joined]
    events: list[NodeEvent] = []
    if state.state is NodeState.LOST:
        events.append(pb.NodeReturned(node_id=command.node_id))
    if command.inventory != state.inventory:
        inventory = message_of(command.inventory)
        events.append(pb.NodeChanged(node_id=command.node_id, inventory=inventory))
    return events
