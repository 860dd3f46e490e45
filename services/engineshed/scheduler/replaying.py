"""Leading the recorded history through again: the log and the plans are read forward together.

All that takes time runs in a thread, a few plans at a time, so that the scheduler goes on.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import datetime
from itertools import takewhile
from typing import Final

from engineshed.api.scheduler.v1.plan_turn_pb2 import PlanTurn
from engineshed.eventstore import EventStore, RecordedEvent
from engineshed.scheduler import plan_store
from engineshed.scheduler.domain.plan_turn import time_of
from engineshed.scheduler.domain.replay import Difference, Replay
from engineshed.scheduler.plan_store import KeptPlan, PlanKey

_PLANS: Final = 100  # at once
_EVENTS: Final = 1_000  # at once
_SHOWN: Final = 20  # differences


@dataclass(slots=True)
class Progress:
    """How far a replay is."""

    total: int  # plans
    turns: int = 0  # plans made again
    decisions: int = 0  # in them
    differing: int = 0
    differences: list[Difference] = field(default_factory=list)  # the first ones

    def note(self, turn: PlanTurn, difference: Difference | None) -> None:
        """Count one more plan."""
        self.turns += 1
        self.decisions += len(turn.decisions)
        if difference is not None:
            self.differing += 1
            if self.differing <= _SHOWN:
                self.differences.append(difference)


async def replay(
    store: EventStore, start: datetime | None = None, end: datetime | None = None
) -> AsyncIterator[Progress]:
    """Make the plans between two moments again; yield how far it is, the last time when done.

    Those before that are needed to begin with are made again too, and not counted.
    """
    first = await plan_store.beginning(store, start)
    if first is None:
        yield Progress(total=0)
        return
    progress = Progress(await plan_store.count(store, first, start, end))
    history = _History(store, first)
    yield progress
    while progress.turns < progress.total and (plans := await history.next_plans()):
        for plan in plans:
            difference = await history.make_again(plan)
            if (start is None or time_of(plan.turn) >= start) and (
                end is None or time_of(plan.turn) <= end
            ):
                progress.note(plan.turn, difference)
        yield progress


class _History:
    """The log and the plans, from a plan on that needs none before it."""

    def __init__(self, store: EventStore, first: PlanKey) -> None:
        self._store = store
        self._replay = Replay()
        self._next = first
        self._read_through = 0  # position
        self._read: deque[RecordedEvent] = deque()  # and not folded; in order

    async def next_plans(self) -> list[KeptPlan]:
        """Return the next plans; none when there are no more."""
        return await plan_store.page(self._store, self._next, _PLANS)

    async def make_again(self, plan: KeptPlan) -> Difference | None:
        """Make the next plan again, and return how it differs."""
        if plan.key not in (self._next, PlanKey(plan.key.term, 0)):
            self._replay.note("plans before this one are missing from the record")
        self._next = PlanKey(plan.key.term, plan.key.number + 1)
        turn = plan.turn
        needed = max([turn.position, *turn.ahead])
        while self._read_through < needed:
            events = await self._store.read(self._read_through, _EVENTS)
            if not events:
                self._replay.note(f"it knew event {needed}, which is not in the log")
                break
            self._read_through = events[-1].position
            self._read.extend(events)
            await asyncio.to_thread(self._fold, turn)
        return await asyncio.to_thread(self._make_again, turn)

    def _make_again(self, turn: PlanTurn) -> Difference | None:
        self._fold(turn)
        return self._replay.make_again(turn)

    def _fold(self, turn: PlanTurn) -> None:
        """Fold what a plan knew, as far as it has been read."""
        while self._read and self._read[0].position <= turn.position:
            event = self._read.popleft()
            self._replay.fold(event.position, event.stream, event.event, event.recorded_at)
        ahead = set(turn.ahead)
        for event in takewhile(lambda one: one.position <= max(ahead, default=0), self._read):
            if event.position in ahead:
                self._replay.fold_early(
                    event.position, event.stream, event.event, event.recorded_at
                )
