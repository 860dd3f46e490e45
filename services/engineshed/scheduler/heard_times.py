"""Noting when nodes were last heard, which is no event, for the scheduler after this one.

A node that falls silent while no scheduler runs is lost since then, and not since the next
scheduler has missed it.
"""

import asyncio
from typing import Final

import structlog

from engineshed.errors import DomainError
from engineshed.runtime import utc_now
from engineshed.scheduler import store
from engineshed.scheduler.agents import Agents
from engineshed.scheduler.journal import Journal

_EVERY_S: Final = 5.0

log: Final[structlog.stdlib.BoundLogger] = structlog.get_logger()


class HeardTimes:
    """Notes from time to time when nodes were last heard."""

    def __init__(self, journal: Journal, agents: Agents) -> None:
        self._store = journal.store
        self._agents = agents
        self._noted = utc_now()

    async def run(self) -> None:
        """Note them until cancelled."""
        while True:
            await asyncio.sleep(_EVERY_S)
            await self.note()

    async def note(self) -> None:
        """Note what has not been noted yet."""
        now = utc_now()
        heard = self._agents.heard_since(self._noted)
        try:
            if heard:
                await store.note_heard(self._store, heard)
        except DomainError as error:
            log.warning("heard times not noted", error=error.message)
        else:
            self._noted = now
