"""plan(): who gets which GPUs now, and who waits.

Pure and deterministic: the same view, policy and time give the same decisions. Queues do not
touch each other's nodes, so planning only those in which something has changed decides the same
as planning all of them.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from itertools import chain, islice
from typing import TypeAlias

from engineshed.api.scheduler.v1 import events_pb2 as pb
from engineshed.scheduler.domain import consequences
from engineshed.scheduler.domain.endpoint import Endpoint, EndpointState, Status
from engineshed.scheduler.domain.filters import census, why_waiting
from engineshed.scheduler.domain.queue import Crowd
from engineshed.scheduler.domain.room import Nomination, Room
from engineshed.scheduler.domain.score import Candidate, Policy, Preferences, best
from engineshed.scheduler.domain.view import QueueKey, View, queue_key


@dataclass(frozen=True, slots=True)
class Spot:
    """GPUs for one replica, and why these."""

    node_id: str
    gpus: tuple[int, ...]
    why: pb.PlacementDecision


@dataclass(frozen=True, slots=True)
class Assign:
    """Give an endpoint these GPUs, one spot for each of its new replicas."""

    endpoint_id: str
    spots: tuple[Spot, ...]
    deployment: int  # the number of what is to run there


@dataclass(frozen=True, slots=True)
class Postpone:
    """Let an endpoint wait, for this."""

    endpoint_id: str
    reason: str


Decision: TypeAlias = Assign | Postpone


@dataclass(frozen=True, slots=True)
class QueuePlan:
    """What is decided for one queue."""

    decisions: list[Decision]
    room: Room  # what is left
    head: str | None  # the first endpoint that has to wait for room; a node is kept for it


def plan(view: View, dirty: Collection[QueueKey], policy: Policy, now: datetime) -> list[Decision]:
    """Return what should be decided for the queues in `dirty`."""
    return [one for key in sorted(dirty) for one in plan_queue(view, key, policy, now).decisions]


def plan_newcomer(
    view: View, newcomer: Endpoint, policy: Policy, now: datetime
) -> tuple[Spot, ...]:
    """Return what an endpoint that is not in the view would get now, as the last of its queue.

    Whoever waits before it is served first, and the node that the head keeps is kept from it too.
    """
    for decision in plan_queue(view, queue_key(newcomer), policy, now, newcomer).decisions:
        if isinstance(decision, Assign) and decision.endpoint_id == newcomer.endpoint_id:
            return decision.spots
    return ()


def plan_queue(
    view: View, key: QueueKey, policy: Policy, now: datetime, *newcomers: Endpoint
) -> QueuePlan:
    """Serve a queue in order of arrival, then newcomers.

    The first endpoint that does not fit keeps a node; those behind it may use the rest, so a small
    one passes a large one without taking its room.
    """
    decisions: list[Decision] = []
    head: str | None = None
    room = Room(view.pools(key), view.cordoned(key))
    too_much: dict[tuple[frozenset[str], int], str] = {}  # and why: room only shrinks meanwhile

    def hopeless(crowd: Crowd) -> bool:
        """Tell whether nothing is to be decided for a crowd: it does not fit, and was told why."""
        why = too_much.get((crowd.backends, crowd.gpu_count))
        return why is not None and crowd.told in (None, why)

    for endpoint in chain(view.queue(key, hopeless), newcomers):
        if endpoint.retry_at is not None and endpoint.retry_at > now:
            continue  # it pauses after a failure, and keeps nothing meanwhile
        preferences = Preferences(endpoint)
        size = (preferences.backends, preferences.gpu_count)
        spots = [] if size in too_much else _spots(view, endpoint, preferences, room, policy)
        if spots:
            decisions.append(Assign(endpoint.endpoint_id, tuple(spots), endpoint.placing.number))
        if len(spots) == endpoint.missing:
            continue
        head = head or endpoint.endpoint_id
        if room.nomination is None:
            nomination = _nominate(view, preferences, room)
            if nomination is not None:
                room.keep(nomination)
        reason = too_much[size] = why_waiting(endpoint, preferences, room)
        unaware = endpoint.status != Status(EndpointState.QUEUED, reason)
        if not spots and unaware and consequences.waits(endpoint):
            decisions.append(Postpone(endpoint.endpoint_id, reason))
    return QueuePlan(decisions, room, head)


def _spots(
    view: View, endpoint: Endpoint, preferences: Preferences, room: Room, policy: Policy
) -> list[Spot]:
    """Take room for as many of the missing replicas as fit."""
    spots: list[Spot] = []
    for _ in range(endpoint.missing):
        candidates = best(preferences, room, policy)
        if not candidates:
            break
        why = pb.PlacementDecision(
            policy_version=policy.version,
            candidates=[_message(candidate) for candidate in candidates],
            rejected=census(view, endpoint, preferences, room).rejected(),
        )
        node_id = candidates[0].node_id
        spots.append(Spot(node_id, room.take(node_id, preferences.gpu_count), why))
        preferences.place(node_id)
    return spots


def _nominate(view: View, preferences: Preferences, room: Room) -> Nomination | None:
    """Return the node that will fit soonest, by what is free and what is being released.

    It only gets better while it is kept, so the head's room is never lost to a change of mind.
    """
    gpu_count = preferences.gpu_count

    def large_enough(node_id: str) -> bool:
        return view.nodes[node_id].inventory.gpu_count >= gpu_count

    def how_far(node_id: str) -> tuple[int, int, str]:
        free = room.free(node_id)
        soon = free + view.releasing(node_id)
        return max(0, gpu_count - soon), gpu_count - free, node_id

    emptiest = room.emptiest(preferences.backends)
    candidates = [
        node_id
        for node_id in view.releasing_nodes
        if large_enough(node_id) and room.fits(node_id, 0, preferences.backends)
    ]
    candidates += islice(filter(large_enough, emptiest), 1)
    if not candidates:
        return None
    node_id = min(candidates, key=how_far)
    return Nomination(node_id, gpu_count, view.releasing(node_id))


def _message(candidate: Candidate) -> pb.PlacementCandidate:
    return pb.PlacementCandidate(node_id=candidate.node_id, score=candidate.score)
