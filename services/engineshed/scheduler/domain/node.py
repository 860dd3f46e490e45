"""Node: a GPU host with its agent, what operators want of it, and whether it is heard.

The two do not touch each other: a cordoned node that is lost and returns is still cordoned.
"""

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import IntEnum
from typing import Final, Literal, TypeAlias, assert_never

from engineshed.api.scheduler.v1 import events_pb2 as pb
from engineshed.api.scheduler.v1 import node_service_pb2 as api
from engineshed.fit import memory_of
from engineshed.scheduler.domain.errors import (
    NodeInUseError,
    NodeNotFoundError,
    WrongNodeStateError,
)

CPU: Final = "cpu"  # the type of slots that no GPU is behind

NodeEvent: TypeAlias = (
    pb.NodeJoined
    | pb.NodeChanged
    | pb.NodeLost
    | pb.NodeReturned
    | pb.NodeCordoned
    | pb.NodeUncordoned
    | pb.NodeDraining
    | pb.NodeLeft
)


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
    gpu_product: str = ""  # as its driver says it; "": the CPU serves
    compute_capability: str = ""
    gpu_uuids: tuple[str, ...] = ()  # by index
    versions: frozenset[tuple[str, str]] = frozenset()  # of packages that build and serve

    @property
    def estimated_memory_bytes(self) -> int:
        """The memory of each GPU that estimates count with; 0: not known, or there is no GPU.

        Simulated GPUs count as what they stand for.
        """
        if self.gpu_type == CPU:
            return 0
        return memory_of(self.gpu_type) if self.simulated else self.gpu_memory_bytes


@dataclass(frozen=True, slots=True)
class Node:
    """A GPU host."""

    node_id: str
    inventory: Inventory
    joined_at: datetime
    revision: int  # events in its stream
    duty: NodeState = NodeState.JOINED  # what operators want: any state but LOST
    reason: str = ""  # why it is cordoned, draining or gone, in an operator's words
    lost: bool = False
    heard_at: datetime | None = None  # when it was last heard, of one that is lost

    @property
    def state(self) -> NodeState:
        """Where it is in its life; while it is lost, its duty is not to be seen."""
        return NodeState.LOST if self.lost else self.duty

    @property
    def heard(self) -> bool:
        """Whether it is part of the fleet, and its lease has not run out."""
        return not self.lost and self.duty is not NodeState.LEFT

    @property
    def takes_replicas(self) -> bool:
        """Whether it is heard and may be given new replicas."""
        return self.state is NodeState.JOINED


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


@dataclass(frozen=True, slots=True)
class Cordon:
    """It gets no new replicas; those it has stay, even if it was draining."""

    reason: str = ""


@dataclass(frozen=True, slots=True)
class Uncordon:
    """It takes replicas again."""


@dataclass(frozen=True, slots=True)
class Drain:
    """It gets no new replicas, and those it has are replaced elsewhere."""

    reason: str = ""


@dataclass(frozen=True, slots=True)
class Remove:
    """It is gone, and with it what was on it."""

    replica_ids: tuple[str, ...]  # whose GPUs are taken on it
    reason: str = ""
    force: bool = False  # though replicas are on it


NodeCommand: TypeAlias = Greet | Hear | Miss | Cordon | Uncordon | Drain | Remove


def decide(state: Node | None, command: NodeCommand) -> list[NodeEvent]:
    """Return what `command` makes true; an empty list means it already was."""
    if isinstance(command, Greet):
        return _greet(state, command)
    if state is None:
        raise NodeNotFoundError("there is no such node")
    match command:
        case Hear():
            return [pb.NodeReturned(node_id=state.node_id)] if state.lost else []
        case Miss():
            return _miss(state, command)
        case Cordon():
            return _set_aside(state, NodeState.CORDONED, command.reason)
        case Drain():
            return _set_aside(state, NodeState.DRAINING, command.reason)
        case Uncordon():
            _require_here(state)
            joined = state.duty is NodeState.JOINED
            return [] if joined else [pb.NodeUncordoned(node_id=state.node_id)]
        case Remove():
            return _remove(state, command)
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
            inventory = inventory_of(event.inventory)
            return replace(state, inventory=inventory, duty=NodeState.JOINED, reason="")
        case pb.NodeChanged():
            return replace(state, inventory=inventory_of(event.inventory))
        case pb.NodeLost():
            return replace(state, lost=True, heard_at=event.heard_at.ToDatetime(tzinfo=UTC))
        case pb.NodeReturned():
            return replace(state, lost=False)
        case pb.NodeCordoned():
            return replace(state, duty=NodeState.CORDONED, reason=event.reason)
        case pb.NodeUncordoned():
            return replace(state, duty=NodeState.JOINED, reason="")
        case pb.NodeDraining():
            return replace(state, duty=NodeState.DRAINING, reason=event.reason)
        case pb.NodeLeft():
            return replace(state, duty=NodeState.LEFT, reason=event.reason, lost=False)
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
        gpu_product=message.gpu_product,
        compute_capability=message.compute_capability,
        gpu_uuids=tuple(message.gpu_uuids),
        versions=frozenset(message.versions.items()),
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
        gpu_product=inventory.gpu_product,
        compute_capability=inventory.compute_capability,
        gpu_uuids=inventory.gpu_uuids,
        versions=dict(inventory.versions),
    )


def _greet(state: Node | None, command: Greet) -> list[NodeEvent]:
    if state is None or state.duty is NodeState.LEFT:
        joined = pb.NodeJoined(node_id=command.node_id, inventory=message_of(command.inventory))
        return [joined]
    events: list[NodeEvent] = []
    if state.lost:
        events.append(pb.NodeReturned(node_id=command.node_id))
    if command.inventory != state.inventory:
        inventory = message_of(command.inventory)
        events.append(pb.NodeChanged(node_id=command.node_id, inventory=inventory))
    return events


def _miss(state: Node, command: Miss) -> list[NodeEvent]:
    if not state.heard:
        return []
    event = pb.NodeLost(node_id=state.node_id)
    event.heard_at.FromDatetime(command.heard_at)
    return [event]


def _set_aside(
    state: Node, duty: Literal[NodeState.CORDONED, NodeState.DRAINING], reason: str
) -> list[NodeEvent]:
    """Cordon or drain it; asked again, only another reason is news."""
    _require_here(state)
    if state.duty is duty and reason in ("", state.reason):
        return []
    event = pb.NodeCordoned if duty is NodeState.CORDONED else pb.NodeDraining
    return [event(node_id=state.node_id, reason=reason)]


def _remove(state: Node, command: Remove) -> list[NodeEvent]:
    if state.duty is NodeState.LEFT:
        return []
    if command.replica_ids and not command.force:
        replicas = ", ".join(command.replica_ids)
        raise NodeInUseError(
            f"GPUs of node {state.node_id} are taken by {replicas}; drain it and wait until none "
            "is, or, if its host is off for good, remove it with force: then they count as gone",
            node_id=state.node_id,
            replica_ids=",".join(command.replica_ids),
        )
    return [pb.NodeLeft(node_id=state.node_id, reason=command.reason)]


def _require_here(state: Node) -> None:
    if state.duty is NodeState.LEFT:
        raise WrongNodeStateError(
            f"node {state.node_id} has left; it joins again when its agent connects",
            node_id=state.node_id,
        )
