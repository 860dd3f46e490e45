"""Keeping what plans were made from, with what they decided, so that they can be made again.

A plan that decides something is written beside the next append, which is at the earliest that of
its first decision: so none of its decisions is recorded before it is, and it costs no commit of its
own. An append that fails leaves it to the next one. See docs/decisions/0022.
"""

from collections.abc import Collection
from datetime import datetime
from functools import partial
from typing import Final

from engineshed.api.scheduler.v1.events_pb2 import EndpointCreated
from engineshed.scheduler import plan_store
from engineshed.scheduler.domain.load import NO_SIGNALS, Signals
from engineshed.scheduler.domain.plan import Decision
from engineshed.scheduler.domain.plan_turn import node_signals, turn_of
from engineshed.scheduler.domain.score import Policy
from engineshed.scheduler.domain.view import QueueKey
from engineshed.scheduler.journal import Journal

# So often a plan is kept with all that agents have said, so that it can be begun with.
_WHOLE_EVERY: Final = 1_000


class PlanLog:
    """Keeps the plans of this term."""

    def __init__(self, journal: Journal, policy: Policy) -> None:
        self._journal = journal
        self._policy = policy
        self._number = 0

    def note(
        self,
        decisions: Collection[Decision],
        now: datetime,
        *,
        queues: Collection[QueueKey] = (),
        signals: Signals = NO_SIGNALS,
        newcomer: EndpointCreated | None = None,
    ) -> None:
        """Keep a plan that was just made from the view as it is, unless it decided nothing.

        Args:
            decisions: what it decided; nothing of it is recorded yet.
            now: its present.
            queues: those that were planned.
            signals: what it knew beside the view.
            newcomer: an endpoint that is not in the view and was planned alone.

        """
        if not decisions:
            return
        view, seen = self._journal.view, self._journal.seen
        turn = turn_of(decisions, now, self._policy, queues, signals, newcomer)
        turn.term = self._journal.term
        turn.position = seen.position
        turn.ahead.extend(sorted(seen.ahead))
        turn.whole = self._number % _WHOLE_EVERY == 0
        told, view.told = view.told, set()
        turn.nodes.extend(node_signals(view.reports, view.reports if turn.whole else sorted(told)))
        self._journal.write_beside(partial(plan_store.write, number=self._number, turn=turn))
        self._number += 1
