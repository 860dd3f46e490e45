"""Forgetting plans that are too old to be made again, a few at a time, so that nobody notices."""

import asyncio
from datetime import datetime, timedelta
from typing import Final

import structlog

from engineshed.errors import DomainError
from engineshed.eventstore import EventStore, NotLeaderError
from engineshed.runtime import utc_now
from engineshed.scheduler import plan_store

_AT_ONCE: Final = 500
_BETWEEN_PAGES_S: Final = 1.0
_BETWEEN_PASSES_S: Final = 600.0

log: Final[structlog.stdlib.BoundLogger] = structlog.get_logger()


class PlanRetention:
    """Forgets plans when they are old."""

    def __init__(self, store: EventStore, kept_for: timedelta) -> None:
        """Keep them for `kept_for`; for ever if that is zero."""
        self._store = store
        self._kept_for = kept_for

    async def run(self) -> None:
        """Forget what is too old, again and again, until cancelled."""
        while True:
            await asyncio.sleep(_BETWEEN_PASSES_S)
            try:
                forgotten = await self.forget(utc_now(), _BETWEEN_PAGES_S)
            except NotLeaderError:
                raise
            except DomainError as error:  # the next pass does it
                log.info("old plans not forgotten yet", error=error.message)
            else:
                log.info("old plans forgotten", plans=forgotten)

    async def forget(self, now: datetime, pause_s: float = 0.0) -> int:
        """Forget what is too old at `now`; return how many plans that were.

        Raises:
            DomainError: the database takes no writes now, or another scheduler leads.

        """
        forgotten = 0
        while self._kept_for:
            found = await plan_store.forget(self._store, now - self._kept_for, _AT_ONCE)
            forgotten += found
            if found < _AT_ONCE:
                break
            await asyncio.sleep(pause_s)
        return forgotten
