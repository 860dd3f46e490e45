"""Keeping the broker's bucket of grants, from which gateways and services know all tokens."""

from functools import partial
from typing import Final

import structlog

from engineshed.api.catalog.v1 import events_pb2 as events
from engineshed.bus import TOKENS, Bus, BusUnavailableError, KeyValueOwner, StaleEntryError
from engineshed.catalog.store import CatalogStore
from engineshed.eventstore import until_available

_TOKEN_EVENTS: Final = [
    message.DESCRIPTOR.full_name for message in (events.TokenCreated, events.TokenRevoked)
]

log: Final[structlog.stdlib.BoundLogger] = structlog.get_logger()


class GrantPublisher:
    """Brings every change of a token into the bucket, and all of them again and again."""

    def __init__(self, store: CatalogStore, bus: Bus) -> None:
        self._store = store
        self._owner = KeyValueOwner(bus, TOKENS, store.grants)

    async def rewrite(self) -> None:
        """Write all grants on every connection and regularly, until cancelled."""
        await self._owner.run()

    async def follow(self) -> None:
        """Write each change as soon as it is recorded, until cancelled."""
        after = await until_available(self._store.events.last_position)
        async for recorded in self._store.events.follow(after, types=_TOKEN_EVENTS):
            token_id = recorded.stream.partition("/")[2]
            grants = await until_available(partial(self._store.grant_of, token_id))
            for key, grant in grants.items():
                try:
                    await self._owner.put(key, grant)
                except (BusUnavailableError, StaleEntryError) as error:
                    # The next rewrite brings it; until then services ask when they miss it.
                    log.warning("grant not published yet", token_id=token_id, error=error.message)
