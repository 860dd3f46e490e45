"""The holds that endpoints have on checkpoints: taken before a change, given back afterwards.

A row in the database stands for each hold that has not been given back. Whatever is killed in
between, a hold that no endpoint needs has a row, and so is found and given back.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Final, NamedTuple

import structlog

from engineshed.api.catalog.v1.checkpoint_service_pb2 import Checkpoint as CatalogCheckpoint
from engineshed.errors import DomainError
from engineshed.eventstore import until_available
from engineshed.runtime import utc_now
from engineshed.scheduler import store
from engineshed.scheduler.catalog_client import Catalog
from engineshed.scheduler.domain.endpoint import ENDED_SHOWN, Endpoint, EndpointState
from engineshed.scheduler.journal import Journal

_EVERY_S: Final = 0.5
_RETRY: Final = timedelta(seconds=2)

# Its last replicas are shown for a while; then nobody asks for it often enough to keep it.
_REMEMBERED: Final = ENDED_SHOWN

log: Final[structlog.stdlib.BoundLogger] = structlog.get_logger()


class Hold(NamedTuple):
    """What keeps a checkpoint's bytes for an endpoint."""

    endpoint_id: str
    checkpoint_id: str


class Holds:
    """Takes further holds, and gives back those that are needed no more."""

    def __init__(self, journal: Journal, catalog: Catalog) -> None:
        self._journal = journal
        self._catalog = catalog
        self._watched: set[Hold] = set()  # those that may not be needed for long
        self._changing: Counter[Hold] = Counter()  # those of changes that are not recorded yet
        self._asking = asyncio.Lock()  # so that the catalog hears take and release in order
        self._released: set[str] = set()  # ended endpoints all of whose holds are given back
        self._not_before: dict[Hold, datetime] = {}

    @asynccontextmanager
    async def taken(
        self, checkpoint_id: str, endpoint: Endpoint
    ) -> AsyncIterator[CatalogCheckpoint]:
        """Hold a further checkpoint while a change of an endpoint is recorded.

        Yields the checkpoint. Unless the endpoint needs it afterwards, the hold is given back.

        Raises:
            DomainError: the catalog refuses, or it or the database cannot be reached.

        """
        hold = Hold(endpoint.endpoint_id, checkpoint_id)
        self._changing[hold] += 1
        try:
            await store.note_hold(self._journal.store, *hold)
            self._watched |= {hold, *_needed(endpoint)}
            async with self._asking:
                found = await self._catalog.hold(
                    checkpoint_id, endpoint.endpoint_id, endpoint.org_id
                )
            yield found
        finally:
            self._changing[hold] -= 1
            if not self._changing[hold]:
                del self._changing[hold]

    async def run(self) -> None:
        """Give back what is needed no more, again and again, until cancelled."""
        rows = await until_available(lambda: store.holds(self._journal.store))
        held = {Hold(*row) for row in rows}
        endpoints = self._journal.view.endpoints
        self._watched |= {hold for hold in held if _may_go(hold, endpoints.get(hold.endpoint_id))}
        holders = {hold.endpoint_id for hold in held}
        self._released = {one for one in self._journal.view.finished if one not in holders}
        while True:
            now = utc_now()
            await self._end_finished(now)
            for hold in sorted(self._watched):
                endpoint = endpoints.get(hold.endpoint_id)
                if endpoint is None or hold not in set(_needed(endpoint)):
                    await self._release(hold, now)
                elif not _may_go(hold, endpoint):
                    self._watched.discard(hold)
            await asyncio.sleep(_EVERY_S)

    async def _end_finished(self, now: datetime) -> None:
        view = self._journal.view
        for endpoint_id in view.finished:
            endpoint = view.endpoints[endpoint_id]
            if endpoint_id not in self._released:
                holds = {one for one in self._watched if one.endpoint_id == endpoint_id}
                holds.add(Hold(endpoint_id, endpoint.checkpoint.checkpoint_id))
                if all([await self._release(hold, now) for hold in sorted(holds)]):
                    self._released.add(endpoint_id)
            elif now - endpoint.updated_at > _REMEMBERED:
                view.forget(endpoint_id)
                self._released.discard(endpoint_id)

    async def _release(self, hold: Hold, now: datetime) -> bool:
        """Give a hold back; tell whether that is done."""
        if self._not_before.get(hold, now) > now:
            return False
        async with self._asking:
            if hold in self._changing:
                return False
            try:
                await self._catalog.release(hold.checkpoint_id, hold.endpoint_id)
                await store.forget_hold(self._journal.store, *hold)
            except DomainError as error:
                self._not_before[hold] = now + _RETRY
                log.warning("hold not given back yet", **hold._asdict(), error=error.message)
                return False
        self._watched.discard(hold)
        self._not_before.pop(hold, None)
        log.info("hold given back", **hold._asdict())
        return True


def _needed(endpoint: Endpoint) -> Iterator[Hold]:
    """Yield the holds on what the endpoint serves, will serve, or may fall back to."""
    if endpoint.status.state is EndpointState.TERMINATED and not endpoint.holds_gpus:
        return
    deployments = [endpoint.deployment, *(one.deployment for one in endpoint.occupying())]
    if endpoint.rollout is not None:
        deployments.append(endpoint.rollout.previous)
    for deployment in deployments:
        yield Hold(endpoint.endpoint_id, deployment.checkpoint.checkpoint_id)


def _may_go(hold: Hold, endpoint: Endpoint | None) -> bool:
    """Tell whether a hold may be needed no more while its endpoint lives on."""
    if endpoint is None:
        return True
    return len(set(_needed(endpoint))) > 1 or hold not in set(_needed(endpoint))
