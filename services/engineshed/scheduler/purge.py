"""Terminating endpoints that were stopped long ago and not used since."""

import asyncio
from datetime import datetime, timedelta
from itertools import islice, takewhile
from typing import Final

import structlog

from engineshed.errors import DomainError
from engineshed.eventstore import NotLeaderError
from engineshed.runtime import utc_now
from engineshed.scheduler.domain.commands import Delete
from engineshed.scheduler.domain.errors import EtagMismatchError
from engineshed.scheduler.endpoints import Endpoints
from engineshed.scheduler.journal import Journal, together

_EVERY_S: Final = 1.0
_AT_ONCE: Final = 100  # endpoints; a shorter time in the settings may make thousands due

_UNITS: Final = ((timedelta(days=1), "day"), (timedelta(hours=1), "hour"))

log: Final[structlog.stdlib.BoundLogger] = structlog.get_logger()


class Purge:
    """Terminates what has been stopped for too long; the log says since when it has been."""

    def __init__(self, journal: Journal, endpoints: Endpoints, after: timedelta) -> None:
        """Purge what has been stopped for `after`; nothing if that is zero."""
        self._journal = journal
        self._endpoints = endpoints
        self._after = after

    async def run(self) -> None:
        """Purge what is due, until cancelled."""
        while True:
            try:
                await self.purge(utc_now())
            except NotLeaderError:
                raise
            except DomainError as error:
                log.warning("not purged yet", error=error.message)
            await asyncio.sleep(_EVERY_S)

    async def purge(self, now: datetime) -> None:
        """Terminate what is due at `now`, in order.

        Raises:
            DomainError: it cannot be recorded now; what is left is still due.

        """
        while due := self._due(now):
            await together(self._terminate(endpoint_id) for endpoint_id in due)

    def at(self, endpoint_id: str) -> datetime | None:
        """Return when an endpoint will be purged if it stays as it is; None: never."""
        since = self._journal.view.stopped.get(endpoint_id)
        return since + self._after if self._after and since is not None else None

    def _due(self, now: datetime) -> list[str]:
        """Return the next ones, of those that have been stopped the longest."""
        if not self._after:
            return []
        stopped = self._journal.view.stopped.items()
        due = takewhile(lambda item: item[1] + self._after <= now, stopped)
        return [endpoint_id for endpoint_id, _ in islice(due, _AT_ONCE)]

    async def _terminate(self, endpoint_id: str) -> None:
        # Whoever restarts it in this moment changes its etag.
        etag = self._journal.view.endpoints[endpoint_id].etag
        command = Delete(etag=etag, reason=f"stopped for {in_words(self._after)}")
        try:
            await self._endpoints.act(endpoint_id, command)
        except EtagMismatchError:
            return
        log.info("endpoint purged", endpoint_id=endpoint_id)


def in_words(time: timedelta) -> str:
    """Return a length of time for people: "14 days", "1 hour", "90 seconds"."""
    for unit, name in _UNITS:
        if time and not time % unit:
            return _counted(time // unit, name)
    return _counted(f"{time.total_seconds():g}", "second")


def _counted(number: int | str, name: str) -> str:
    return f"{number} {name}" if str(number) == "1" else f"{number} {name}s"
