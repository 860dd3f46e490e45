"""Giving back what terminated endpoints held at the catalog, once their processes are gone."""

import asyncio
from datetime import datetime, timedelta
from typing import Final

import structlog

from engineshed.errors import DomainError
from engineshed.eventstore import until_available
from engineshed.runtime import utc_now
from engineshed.scheduler import store
from engineshed.scheduler.catalog_client import Catalog
from engineshed.scheduler.domain.endpoint import ENDED_SHOWN
from engineshed.scheduler.journal import Journal

_EVERY_S: Final = 0.5
_RETRY: Final = timedelta(seconds=2)

# Its last replicas are shown for a while; then nobody asks for it often enough to keep it.
_REMEMBERED: Final = ENDED_SHOWN

log: Final[structlog.stdlib.BoundLogger] = structlog.get_logger()


class Holds:
    """Gives holds back, again and again until it is done, whatever restarts in between.

    A row in the database stands for each hold that has not been given back.
    """

    def __init__(self, journal: Journal, catalog: Catalog) -> None:
        self._journal = journal
        self._catalog = catalog
        self._released: set[str] = set()  # endpoints whose hold is known to be given back
        self._not_before: dict[str, datetime] = {}

    async def run(self) -> None:
        """Look for finished endpoints until cancelled."""
        held = await until_available(lambda: store.held_checkpoints(self._journal.store))
        self._released = {one for one in self._journal.view.finished if one not in held}
        while True:
            now = utc_now()
            for endpoint_id in self._journal.view.finished:
                if endpoint_id not in self._released:
                    await self._release(endpoint_id, now)
                elif now - self._journal.view.endpoints[endpoint_id].updated_at > _REMEMBERED:
                    self._journal.view.forget(endpoint_id)
                    self._released.discard(endpoint_id)
            await asyncio.sleep(_EVERY_S)

    async def _release(self, endpoint_id: str, now: datetime) -> None:
        if self._not_before.get(endpoint_id, now) > now:
            return
        checkpoint_id = self._journal.view.endpoints[endpoint_id].checkpoint.checkpoint_id
        try:
            await self._catalog.release(checkpoint_id, endpoint_id)
            await store.forget_hold(self._journal.store, endpoint_id)
        except DomainError as error:
            self._not_before[endpoint_id] = now + _RETRY
            log.warning(
                "hold not given back yet",
                endpoint_id=endpoint_id,
                checkpoint_id=checkpoint_id,
                error=error.message,
            )
        else:
            self._released.add(endpoint_id)
            self._not_before.pop(endpoint_id, None)
            log.info("hold given back", endpoint_id=endpoint_id, checkpoint_id=checkpoint_id)
