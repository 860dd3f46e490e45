"""The agents as they are now: who is connected, when each was last heard, what it says.

All of it is transient. What of it matters later is recorded as events by `observations.py`.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from engineshed.api.agent.v1.agent_service_pb2 import (
    DesiredReplica,
    DesiredState,
    NodeStatus,
    ReplicaStatus,
)
from engineshed.errors import DomainError, Kind
from engineshed.runtime import utc_now

# How often this process makes sure that it runs, and after what pause it did not.
_LOOK_S: Final = 0.25
_STALL_S: Final = 0.5


class SupersededError(DomainError):
    """The node has connected anew; this connection is over."""

    kind = Kind.CONFLICT
    reason = "SUPERSEDED"


class NodeRemovedError(DomainError):
    """The node was taken out; when its agent connects again, it joins again."""

    kind = Kind.CONFLICT
    reason = "NODE_REMOVED"


class NodeTakenError(DomainError):
    """Another host is connected as this node, and is heard."""

    kind = Kind.CONFLICT
    reason = "NODE_TAKEN"


class Session:
    """One connection of an agent: the newest status in, the newest desired state out.

    Both are whole each time, so only the newest counts and nothing ever queues up.
    """

    def __init__(self, node_id: str, boot_id: str) -> None:
        self.node_id = node_id
        self.boot_id = boot_id
        self._status: NodeStatus | None = None
        self._desired: DesiredState | None = None
        self._error: BaseException | None = None
        self._ended = False
        self._received = asyncio.Event()
        self._sending = asyncio.Event()

    def receive(self, status: NodeStatus) -> None:
        """Take what the agent says."""
        self._status = status
        self._received.set()

    def send(self, desired: DesiredState) -> None:
        """Let the agent have this instead of what it has not been sent yet."""
        self._desired = desired
        self._sending.set()

    def end(self, error: BaseException | None = None) -> None:
        """End the connection: in peace, or by raising `error` where it is served."""
        if not self._ended:
            self._ended = True
            self._error = error
            self._sending.set()
            self._received.set()

    async def statuses(self) -> AsyncIterator[NodeStatus]:
        """Yield the newest status whenever there is one, until the connection ends."""
        while not self._ended:
            await self._received.wait()
            self._received.clear()
            status, self._status = self._status, None
            if status is not None:
                yield status

    async def outgoing(self) -> AsyncIterator[DesiredState]:
        """Yield the newest desired state whenever there is one, until the connection ends.

        Raises:
            SupersededError: the node has connected anew.

        """
        while True:
            await self._sending.wait()
            self._sending.clear()
            if self._error is not None:
                raise self._error
            if self._ended:
                return
            desired, self._desired = self._desired, None
            if desired is not None:
                yield desired


@dataclass(slots=True)
class _Presence:
    """What is known of one node's agent in this term."""

    heard: float  # by the loop's clock
    heard_at: datetime
    session: Session | None = None
    reported: bool = False  # what it said is recorded
    replicas: dict[str, ReplicaStatus] = field(default_factory=dict)
    desired: DesiredState | None = None  # what it was sent last
    named: dict[str, int] = field(default_factory=dict)  # replica: generation it first stood in
    absent: dict[str, float] = field(default_factory=dict)  # replica: since when it is not there


class Agents:
    """All agents that were heard in this term, or are expected to be."""

    def __init__(self, term: int) -> None:
        self._term = term
        self._generation = 0
        self._nodes: dict[str, _Presence] = {}
        self._looked = _clock()

    @property
    def connected(self) -> int:
        """How many are connected now."""
        return sum(presence.session is not None for presence in list(self._nodes.values()))

    async def watch(self) -> None:
        """Notice when this process was stopped or did nothing else, until cancelled."""
        while True:
            self._forgive_stall()
            await asyncio.sleep(_LOOK_S)

    def expect(self, node_id: str, heard_at: datetime) -> None:
        """Give a node that was last heard under another leader a lease from now on."""
        self._nodes[node_id] = _Presence(_clock(), heard_at)

    def connect(self, node_id: str, boot_id: str, *, lost: bool) -> Session:
        """Begin a connection; the one before it ends.

        Args:
            node_id: the node.
            boot_id: the boot of its host.
            lost: whether the node's lease has run out, or it has left.

        Raises:
            NodeTakenError: the one before it is another host's, and that one is heard. Two hosts
                that take turns would run every replica twice.

        """
        known = self._nodes.get(node_id)
        other = known.session if known else None
        if other is not None and other.boot_id != boot_id and not lost:
            raise NodeTakenError(
                f"another host is connected as {node_id}; if this one works on a copy of its "
                "folder, remove node.json from the copy",
                node_id=node_id,
            )
        session = Session(node_id, boot_id)
        presence = self.hear(node_id)
        if presence.session is not None:
            error = SupersededError(f"{node_id} has connected anew", node_id=node_id)
            presence.session.end(error)
        presence.session = session
        presence.desired = None
        return session

    def disconnect(self, session: Session) -> None:
        """Note that a connection is over; the node's lease runs on."""
        presence = self._nodes[session.node_id]
        if presence.session is session:
            presence.session = None

    def dismiss(self, node_id: str) -> None:
        """End the connection of a node that has left, and forget what it said."""
        presence = self._nodes.get(node_id)
        if presence is None or presence.session is None:
            return
        self._nodes[node_id] = _Presence(presence.heard, presence.heard_at)
        presence.session.end(NodeRemovedError(f"{node_id} was removed", node_id=node_id))

    def end_all(self) -> None:
        """End all connections; agents connect to whoever leads next."""
        for presence in self._nodes.values():
            if presence.session is not None:
                presence.session.end()

    def is_current(self, session: Session) -> bool:
        """Tell whether no other connection of the node has begun since, and it has not left."""
        return self._nodes[session.node_id].session is session

    def hear(self, node_id: str) -> _Presence:
        """Renew a node's lease."""
        presence = self._nodes.get(node_id)
        if presence is None:
            presence = self._nodes[node_id] = _Presence(_clock(), utc_now())
        presence.heard, presence.heard_at = _clock(), utc_now()
        return presence

    def heard_at(self, node_id: str) -> datetime | None:
        """Return when a node was last heard."""
        presence = self._nodes.get(node_id)
        return presence.heard_at if presence else None

    def silent(self, node_ids: Iterable[str], lease_s: float) -> Iterator[tuple[str, datetime]]:
        """Yield those of the nodes whose lease has run out, and when they were last heard."""
        self._forgive_stall()
        deadline = _clock() - lease_s
        for node_id in node_ids:
            presence = self._nodes[node_id]
            if presence.heard < deadline:
                yield node_id, presence.heard_at

    def heard_since(self, moment: datetime) -> dict[str, datetime]:
        """Return the nodes that were heard after a moment, and when."""
        return {
            node_id: presence.heard_at
            for node_id, presence in self._nodes.items()
            if presence.heard_at > moment
        }

    def note(self, node_id: str, status: NodeStatus) -> None:
        """Keep what an agent says of its replicas, to show it."""
        presence = self._nodes[node_id]
        presence.replicas = {replica.replica_id: replica for replica in status.replicas}

    def note_recorded(self, node_id: str) -> None:
        """Note that what an agent said is recorded."""
        self._nodes[node_id].reported = True

    def has_reported(self, node_id: str) -> bool:
        """Tell whether what a node's agent said in this term is recorded."""
        presence = self._nodes.get(node_id)
        return presence is not None and presence.reported

    def shown(self, node_id: str, replica_id: str) -> ReplicaStatus | None:
        """Return what a node's agent last said of a replica."""
        presence = self._nodes.get(node_id)
        return presence.replicas.get(replica_id) if presence else None

    def gone(
        self, node_id: str, replica_ids: Iterable[str], status: NodeStatus, grace_s: float
    ) -> dict[str, timedelta]:
        """Return those of the replicas that an agent should have and no longer has, and how long.

        It counts only when it works to a desired state of this term that names them; and only
        after `grace_s`, because it may just be making what that state has asked for.
        """
        presence = self._nodes[node_id]
        there = {replica.replica_id for replica in status.replicas}
        absent = {
            replica_id: presence.absent.get(replica_id, _clock())
            for replica_id in replica_ids
            if replica_id not in there
            and status.term == self._term
            and status.generation >= presence.named.get(replica_id, status.generation + 1)
        }
        presence.absent = absent
        missed = {one: _clock() - since for one, since in absent.items()}
        return {one: timedelta(seconds=age) for one, age in missed.items() if age >= grace_s}

    def send(self, node_id: str, replicas: Sequence[DesiredReplica]) -> None:
        """Send a connected agent its desired state, if that is another than it was sent last."""
        presence = self._nodes.get(node_id)
        if presence is None or presence.session is None:
            return
        if presence.desired is not None and list(presence.desired.replicas) == list(replicas):
            return
        self._generation += 1
        desired = DesiredState(term=self._term, generation=self._generation, replicas=replicas)
        presence.named = {
            replica.replica_id: presence.named.get(replica.replica_id, self._generation)
            for replica in replicas
        }
        presence.desired = desired
        presence.session.send(desired)

    def _forgive_stall(self) -> None:
        """Lengthen all leases by a time in which nothing ran here: what was said is not read yet.

        It is the event loop that counts. Whoever waits for a broker or a disk listens meanwhile.
        """
        now = _clock()
        stalled, self._looked = now - self._looked, now
        if stalled > _STALL_S:
            for presence in self._nodes.values():
                presence.heard = min(now, presence.heard + stalled)


def _clock() -> float:
    return asyncio.get_running_loop().time()
