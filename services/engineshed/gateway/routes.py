"""The gateway's copy of the routes, and waiting for it to say what the scheduler says."""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from engineshed.api.scheduler.v1.route_pb2 import Route
from engineshed.bus import ROUTES, Bus, KeyValueWatcher
from engineshed.gateway.news import News

PATIENCE_SECONDS: Final = 2.0


class Routes:
    """Where requests go, as far as this gateway knows."""

    def __init__(self, bus: Bus, copy: Path, gone: Callable[[str], None], news: News) -> None:
        """Keep the routes in the file `copy` too, to start from.

        `gone` is called with the routing key of an endpoint that has none any more. `news` tells
        of every change, by routing key.
        """
        self._news = news
        self._gone = gone
        self._watcher = KeyValueWatcher(bus, ROUTES, copy=copy, on_change=self._note)

    @property
    def entries(self) -> Mapping[str, Route]:
        """All routes by routing key; a live view."""
        return self._watcher.entries

    async def run(self) -> None:
        """Follow the routes until cancelled."""
        await self._watcher.run()

    async def until(self, routing_key: str, usable: Callable[[Route], bool]) -> None:
        """Return when the route is `usable`, or that takes too long.

        Who has read here that an endpoint runs may expect its next request to be answered here.
        """
        with self._news.listening(routing_key) as news, suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE_SECONDS):
                while not self._is(routing_key, usable):
                    await news.wait()
                    news.clear()

    def _note(self, routing_key: str, route: Route | None) -> None:
        self._news.tell(routing_key)
        if route is None:
            self._gone(routing_key)

    def _is(self, routing_key: str, usable: Callable[[Route], bool]) -> bool:
        route = self.entries.get(routing_key)
        return route is not None and usable(route)
