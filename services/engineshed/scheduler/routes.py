"""The routes that gateways follow: what they should be, and bringing them to the broker.

A route changes before its replicas do: one that is to drain leaves its route first, so that no
gateway sends it a request that it must refuse.
"""

import asyncio
from collections.abc import Collection
from datetime import timedelta
from typing import Final

import structlog

from engineshed.api.scheduler.v1.route_pb2 import Route
from engineshed.bus import ROUTES, Bus, BusUnavailableError, KeyValueOwner, StaleEntryError
from engineshed.runtime import utc_now
from engineshed.scheduler import store
from engineshed.scheduler.domain.desired import SecretOf, route_of
from engineshed.scheduler.journal import Journal
from engineshed.scheduler.store import Terminated

# How long a change waits for the broker before what follows from it goes on without.
_PATIENCE_S: Final = 1.0

# How long the broker and gateways are told again that an endpoint is gone.
_TOMBSTONES_FOR: Final = timedelta(days=7)

log: Final[structlog.stdlib.BoundLogger] = structlog.get_logger()


class Routes:
    """Keeps the bucket of routes."""

    def __init__(self, bus: Bus, journal: Journal, secret_of: SecretOf) -> None:
        self._bus = bus
        self._journal = journal
        self._secret_of = secret_of
        self._owner = KeyValueOwner(bus, ROUTES, self._entries)
        self._routes: dict[str, Route] = {}  # by routing key, as last made
        self._generation = 0
        self._unpublished: set[str] = set()  # endpoints

    async def run(self) -> None:
        """Write all routes at every connection and every 30 seconds, until cancelled."""
        await self._owner.run()

    @property
    def behind(self) -> bool:
        """Whether changes have not reached the broker."""
        return bool(self._unpublished)

    async def publish(self, endpoint_ids: Collection[str]) -> None:
        """Return when the routes of these endpoints are in the broker, or it takes too long.

        What it could not bring there it tries again at the next call; when there is no connection
        the next one brings all.
        """
        self._unpublished |= set(endpoint_ids)
        if not self._bus.connected:
            self._unpublished.clear()
            return
        waiting = {asyncio.create_task(self._put(one)) for one in self._unpublished}
        if not waiting:
            return
        _, late = await asyncio.wait(waiting, timeout=_PATIENCE_S)
        for task in late:
            task.cancel()
        if self._unpublished:
            log.warning("routes not published yet", endpoints=len(self._unpublished))

    async def _put(self, endpoint_id: str) -> None:
        endpoint = self._journal.view.endpoints.get(endpoint_id)
        if endpoint is None:
            self._unpublished.discard(endpoint_id)
            return
        route = self._ordered(route_of(endpoint, self._secret_of))
        try:
            await self._owner.put(route.routing_key, route)
        except BusUnavailableError as error:
            log.debug("route not published yet", endpoint_id=endpoint_id, error=error.message)
        except StaleEntryError as error:
            # Another scheduler leads, or led on a store that this one is a restored copy of.
            log.error("a later route is published", endpoint_id=endpoint_id, error=error.message)
            self._unpublished.discard(endpoint_id)
        else:
            if self._routes.get(route.routing_key) is route:
                self._unpublished.discard(endpoint_id)

    async def _entries(self) -> dict[str, Route]:
        gone = await store.terminated_since(self._journal.store, utc_now() - _TOMBSTONES_FOR)
        entries = {one.routing_key: self._ordered(_tombstone(one)) for one in gone}
        for endpoint in list(self._journal.view.endpoints.values()):
            route = self._ordered(route_of(endpoint, self._secret_of))
            entries[route.routing_key] = route
        self._routes = dict(entries)  # what is not written any more is forgotten
        return entries

    def _ordered(self, route: Route) -> Route:
        """Return the route with its term and generation; an unchanged one keeps them."""
        last = self._routes.get(route.routing_key)
        if last is not None:
            route.term, route.generation = last.term, last.generation
            if route == last:
                return last
        self._generation += 1
        route.term, route.generation = self._journal.term, self._generation
        self._routes[route.routing_key] = route
        return route


def _tombstone(gone: Terminated) -> Route:
    route = Route(
        routing_key=gone.routing_key,
        endpoint_id=gone.endpoint_id,
        org_id=gone.org_id,
        region=gone.region,
        status="terminated",
        tombstone=True,
    )
    route.create_time.FromDatetime(gone.created_at)
    return route
