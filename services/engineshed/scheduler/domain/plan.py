"""plan(): who gets which GPUs now, who waits, who gives some back, and how many replicas run.

Pure and deterministic: the same view, policy and time give the same decisions. Queues do not
touch each other's nodes, so planning only those in which something has changed decides the same
as planning all of them.
"""

from collections.abc import Collection, Set
from dataclasses import dataclass
from datetime import datetime
from itertools import chain, islice
from typing import TypeAlias

from engineshed.api.scheduler.v1 import events_pb2 as pb
from engineshed.scheduler.domain import consequences
from engineshed.scheduler.domain.autoscale import Scale, autoscale
from engineshed.scheduler.domain.endpoint import Endpoint, EndpointState, Status
from engineshed.scheduler.domain.filters import census, why_waiting
from engineshed.scheduler.domain.load import NO_SIGNALS, Signals
from engineshed.scheduler.domain.queue import Crowd
from engineshed.scheduler.domain.reclaim import Reclaim, Reclaiming
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


Decision: TypeAlias = Assign | Postpone | Reclaim | Scale


@dataclass(frozen=True, slots=True)
class QueuePlan:
    """What is decided for one queue."""

    decisions: list[Decision]
    room: Room  # what is left
    head: str | None  # the first endpoint that has to wait for room; a node is kept for it


def plan(
    view: View,
    dirty: Collection[QueueKey],
    policy: Policy,
    now: datetime,
    signals: Signals = NO_SIGNALS,
) -> list[Decision]:
    """Return what should be decided for the queues in `dirty`, and by the loads in `signals`."""
    decisions: list[Decision] = []
    for key in sorted(dirty):
        decisions += plan_queue(view, key, policy, now, idle=signals.idle).decisions
    for endpoint_id, load in sorted(signals.loads.items()):
        scale = autoscale(view.endpoints[endpoint_id], load, policy)
        if scale is not None:
            decisions.append(scale)
    return decisions


def plan_newcomer(
    view: View, newcomer: Endpoint, policy: Policy, now: datetime
) -> tuple[Spot, ...]:
    """Return what an endpoint that is not in the view would get now, as the last of its queue.

    Whoever waits before it is served first, and the node that the head keeps is kept from it too.
    """
    for decision in plan_queue(
        view, queue_key(newcomer), policy, now, newcomers=(newcomer,)
    ).decisions:
        if isinstance(decision, Assign) and decision.endpoint_id == newcomer.endpoint_id:
            return decision.spots
    return ()


def plan_queue(
    view: View,
    key: QueueKey,
    policy: Policy,
    now: datetime,
    *,
    newcomers: Collection[Endpoint] = (),
    idle: Set[str] = frozenset(),
) -> QueuePlan:
    """Serve a queue in order of arrival, then newcomers: first what is reserved, then the rest.

    The first endpoint whose reserved replicas do not fit keeps a node; those behind it may use the
    rest, so a small one passes a large one without taking its room.
    """
    turn = _Turn(view, key, policy, idle)
    stretching: list[Endpoint] = []
    for endpoint in chain(view.queue(key, turn.is_hopeless), newcomers):
        if endpoint.retry_at is not None and endpoint.retry_at > now:
            continue  # it pauses after a failure, and keeps nothing meanwhile
        reserved = endpoint.missing_reserved
        if reserved < endpoint.missing:
            stretching.append(endpoint)
        if reserved:
            turn.serve(endpoint, reserved, reserved=True)
    for endpoint in stretching:
        turn.serve(endpoint, endpoint.missing - endpoint.missing_reserved, reserved=False)
    return QueuePlan(turn.decisions(), turn.room, turn.head)


class _Turn:
    """One pass over a queue."""

    def __init__(self, view: View, key: QueueKey, policy: Policy, idle: Set[str]) -> None:
        self.room = Room(view.pools(key), view.cordoned(key))
        self.head: str | None = None
        self._view = view
        self._policy = policy
        self._reclaiming = Reclaiming(view, key, idle)
        self._reclaims: list[Reclaim] = []
        self._decided: dict[str, Assign | Postpone] = {}  # by endpoint, in the order of service
        self._preferences: dict[str, Preferences] = {}  # of those that were given room
        # Sizes that fit nowhere, and what whoever is too large waits for: room only shrinks.
        self._too_much: dict[tuple[frozenset[str], int], str] = {}

    def decisions(self) -> list[Decision]:
        """Return what was decided."""
        return [*self._decided.values(), *self._reclaims]

    def is_hopeless(self, crowd: Crowd) -> bool:
        """Tell whether nothing is to be decided for a crowd: it does not fit, and was told why."""
        why = self._too_much.get((crowd.backends, crowd.gpu_count))
        return why is not None and crowd.told in (None, why)

    def serve(self, endpoint: Endpoint, missing: int, *, reserved: bool) -> None:
        """Give an endpoint room for as many replicas as fit; if not all do, let it wait."""
        endpoint_id = endpoint.endpoint_id
        preferences = self._preferences.get(endpoint_id) or Preferences(endpoint)
        size = (preferences.backends, preferences.gpu_count)
        spots = [] if size in self._too_much else self._take(endpoint, preferences, missing)
        before = self._decided.get(endpoint_id)
        if spots:
            earlier = before.spots if isinstance(before, Assign) else ()
            deployment = endpoint.placing.number
            self._decided[endpoint_id] = Assign(endpoint_id, (*earlier, *spots), deployment)
            self._preferences[endpoint_id] = preferences
        if len(spots) == missing:
            return
        comes = reserved and self._keep(endpoint, preferences, missing - len(spots))
        reason = why_waiting(endpoint, preferences, self.room)
        if not comes:
            self._too_much[size] = reason
        unaware = endpoint.status != Status(EndpointState.QUEUED, reason)
        if not spots and before is None and unaware and consequences.waits(endpoint):
            self._decided[endpoint_id] = Postpone(endpoint_id, reason)

    def _keep(self, endpoint: Endpoint, preferences: Preferences, missing: int) -> bool:
        """See to room for reserved replicas that do not fit; tell whether any was made."""
        self.head = self.head or endpoint.endpoint_id
        reclaims = [
            reclaim
            for _ in range(missing)
            for reclaim in self._reclaiming.make_room(endpoint, preferences, self.room)
        ]
        self._reclaims += reclaims
        if self.room.nomination is None:
            nomination = _nominate(self._view, preferences, self.room, self._reclaiming)
            if nomination is not None:
                self.room.keep(nomination)
        return bool(reclaims)

    def _take(self, endpoint: Endpoint, preferences: Preferences, missing: int) -> list[Spot]:
        """Take room for as many of the missing replicas as fit."""
        spots: list[Spot] = []
        for _ in range(missing):
            candidates = best(preferences, self.room, self._policy)
            if not candidates:
                break
            turned_away = census(self._view, endpoint, preferences, self.room).rejected()
            why = pb.PlacementDecision(
                policy_version=self._policy.version,
                candidates=[_message(candidate) for candidate in candidates],
                rejected=turned_away,
            )
            node_id = candidates[0].node_id
            spots.append(Spot(node_id, self.room.take(node_id, preferences.gpu_count), why))
            preferences.place(node_id)
        return spots


def _nominate(
    view: View, preferences: Preferences, room: Room, reclaiming: Reclaiming
) -> Nomination | None:
    """Return the node that will fit soonest, by what is free and what is being released.

    It only gets better while it is kept, so the head's room is never lost to a change of mind.
    """
    gpu_count = preferences.gpu_count

    def large_enough(node_id: str) -> bool:
        return view.nodes[node_id].inventory.gpu_count >= gpu_count

    def how_far(node_id: str) -> tuple[int, int, str]:
        free = room.free(node_id)
        soon = free + reclaiming.releasing(node_id)
        return max(0, gpu_count - soon), gpu_count - free, node_id

    emptiest = room.emptiest(preferences.backends)
    candidates = [
        node_id
        for node_id in view.releasing_nodes | reclaiming.nodes
        if large_enough(node_id) and room.fits(node_id, 0, preferences.backends)
    ]
    candidates += islice(filter(large_enough, emptiest), 1)
    if not candidates:
        return None
    node_id = min(candidates, key=how_far)
    return Nomination(node_id, gpu_count, reclaiming.releasing(node_id))


def _message(candidate: Candidate) -> pb.PlacementCandidate:
    return pb.PlacementCandidate(node_id=candidate.node_id, score=candidate.score)
