"""Telling those who wait for something that it has changed."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager


class News:
    """What changes, by topic: the routing key of a route, or the hash of a token."""

    def __init__(self) -> None:
        self._listeners: dict[str, set[asyncio.Event]] = {}

    def tell(self, topic: str) -> None:
        """Let all who listen to `topic` know that there is something new about it."""
        for news in self._listeners.get(topic, ()):
            news.set()

    @contextmanager
    def listening(self, *topics: str) -> Iterator[asyncio.Event]:
        """Set the event, for the time of the block, whenever a topic changes; clear it yourself."""
        news = asyncio.Event()
        for topic in topics:
            self._listeners.setdefault(topic, set()).add(news)
        try:
            yield news
        finally:
            for topic in topics:
                listeners = self._listeners[topic]
                listeners.discard(news)
                if not listeners:
                    del self._listeners[topic]
