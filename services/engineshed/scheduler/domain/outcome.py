"""What is different between a fleet and what would become of it: moves, waits, nodes."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import zip_longest

from engineshed.scheduler.domain.endpoint import Endpoint
from engineshed.scheduler.domain.filters import why_missing
from engineshed.scheduler.domain.node import Node, NodeState
from engineshed.scheduler.domain.replica import Replica
from engineshed.scheduler.domain.view import View


@dataclass(frozen=True, slots=True)
class Move:
    """A replica that is placed, or ends, or both in another's place."""

    endpoint: Endpoint  # in the end
    from_node_id: str  # "": one more is placed
    to_node_id: str  # "": one less is there
    gpu_count: int
    reason: str  # why one ends


@dataclass(frozen=True, slots=True)
class Waiting:
    """An endpoint that misses replicas in the end."""

    endpoint: Endpoint
    missing: int
    reason: str
    anyway: bool  # also if nothing is changed


@dataclass(frozen=True, slots=True)
class Occupancy:
    """A node in the end."""

    node: Node
    taken_before: int  # GPUs
    taken_after: int


@dataclass(frozen=True, slots=True)
class Before:
    """A fleet as it is."""

    endpoints: Mapping[str, Endpoint]
    taken: Mapping[str, int]  # GPUs by node


@dataclass(frozen=True, slots=True)
class Outcome:
    """What would become of a fleet."""

    moves: Sequence[Move]  # in order of endpoint; none that is made anyway
    waits: Sequence[Waiting]  # in order of queue and place
    nodes: Sequence[Occupancy]  # oldest first
    settled: bool  # False: there would be more


def taken_gpus(view: View) -> Mapping[str, int]:
    """Return how many GPUs of each node are taken, by whomever."""
    return {
        node_id: len(view.holders(node_id).keys() | view.reports.get(node_id, frozenset()))
        for node_id in view.nodes
    }


def outcome(
    before: Before, after: View, anyway: View | None, now: datetime, *, settled: bool
) -> Outcome:
    """Compare.

    Args:
        before: what is.
        after: what would be.
        anyway: what would be if nothing were changed; None: that is `after`.
        now: when.
        settled: whether nothing more would be decided.

    """
    also = Counter(_key(move) for move in _moves(before, anyway)) if anyway else Counter()
    waiting_anyway = {one.endpoint_id for one in _waiting(anyway or after)}
    moves = []
    for move in _moves(before, after):
        if also[_key(move)]:
            also[_key(move)] -= 1
        else:
            moves.append(move)
    taken = taken_gpus(after)
    return Outcome(
        moves,
        [
            Waiting(
                endpoint,
                endpoint.missing,
                why_missing(after, endpoint, now),
                endpoint.endpoint_id in waiting_anyway,
            )
            for endpoint in _waiting(after)
        ],
        [
            Occupancy(node, before.taken.get(node.node_id, 0), taken[node.node_id])
            for node in after.nodes.values()
            if node.duty is not NodeState.LEFT
        ],
        settled,
    )


def _moves(before: Before, after: View) -> Iterator[Move]:
    for endpoint_id, old in sorted(before.endpoints.items()):
        new = after.endpoints[endpoint_id]
        if new is old:
            continue  # nothing happened to it
        gone = [one for one in old.occupying() if _ended(new, one)]
        come = [one for one in new.occupying() if old.replica(one.replica_id) is None]
        for one, other in zip_longest(gone, come):
            replica = other or one
            assert replica is not None, "one of the two is there"
            yield Move(
                endpoint=new,
                from_node_id=one.node_id if one else "",
                to_node_id=other.node_id if other else "",
                gpu_count=len(replica.gpus),
                reason=_why_ended(new, one) if one else "",
            )


def _ended(new: Endpoint, old: Replica) -> bool:
    replica = new.replica(old.replica_id)
    return replica is None or replica.ended


def _why_ended(new: Endpoint, old: Replica) -> str:
    replica = new.replica(old.replica_id)
    return replica.reason if replica else ""


def _key(move: Move) -> tuple[str, str, str]:
    return move.endpoint.endpoint_id, move.from_node_id, move.to_node_id


def _waiting(view: View) -> Iterator[Endpoint]:
    for key in sorted(view.queues):
        yield from view.queue(key)
