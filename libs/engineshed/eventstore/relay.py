"""The outbox relay: every committed event reaches the broker, in order, at least once.

Several events are in flight at once, but never two of one stream, and none that is `WINDOW` or
more positions ahead of the first that is not acknowledged. So when a broker holds an event, it
holds all up to `WINDOW` positions before it, even if one in between was lost: that is how far back
the relay goes when it starts anew. What it repeats carries the same event id.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from contextlib import aclosing
from functools import partial
from typing import Final, Protocol

import structlog
from sqlalchemy import Connection, insert, update

from engineshed.eventstore import reading
from engineshed.eventstore.model import RecordedEvent, Selection
from engineshed.eventstore.schema import cursors
from engineshed.eventstore.store import EventStore

_log = structlog.get_logger()

WINDOW: Final = 64

_CURSOR: Final = "relay"
_FIRST_PAUSE_S: Final = 0.1
_LONGEST_PAUSE_S: Final = 5.0

# How often an idle relay checks that the broker still holds what it acknowledged.
_ASK_AGAIN_S: Final = 30.0


class EventSink(Protocol):
    """A broker, as the relay of one service sees it."""

    async def publish(self, event: RecordedEvent) -> None:
        """Return when the broker has stored the event.

        Raise when it may not have, in time; and when the connection was renewed since
        `resume_position` was asked, for a broker that was away may have lost its latest events.
        """

    async def resume_position(self) -> int | None:
        """Return the last position of this service that the broker really holds.

        0 when it holds none; None when that cannot be told, because the broker has removed old
        events: then the relay trusts its own cursor.
        """


class Relay:
    """Publishes the log of one store to one sink."""

    def __init__(self, store: EventStore, sink: EventSink) -> None:
        self._store = store
        self._sink = sink
        self._acknowledged = 0

    @property
    def lag(self) -> int:
        """How many committed events are not known to be published."""
        return max(0, self._store.known_position - self._acknowledged)

    async def run(self) -> None:
        """Publish for ever; after an error, ask the sink what it holds and go on from there."""
        pause = _FIRST_PAUSE_S
        while True:
            before = self._acknowledged
            try:
                await self._resume()
                await self._publish_for_a_while()
            except Exception as error:  # noqa: BLE001 - the events are safe; the broker may return
                if self._acknowledged > before:
                    pause = _FIRST_PAUSE_S
                _log.warning(
                    "relay interrupted",
                    service=self._store.service,
                    lag=self.lag,
                    retry_in_s=pause,
                    error=repr(error),
                )
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_S)

    async def _resume(self) -> None:
        """Find out what the broker holds for certain."""
        held = await self._sink.resume_position()
        cursor = await self._store.query(lambda connection: reading.cursor(connection, _CURSOR))
        last = await self._store.last_position()
        self._acknowledged = _certain(held, cursor, last)
        if held is not None and not cursor <= held <= last:
            _log.warning(
                "broker and store disagree",
                service=self._store.service,
                broker_holds=held,
                published=cursor,
                recorded=last,
                resuming_after=self._acknowledged,
            )

    async def _publish_for_a_while(self) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + _ASK_AGAIN_S
        async with aclosing(self._store.follow_pages(self._acknowledged, Selection())) as pages:
            async for page in pages:
                if page:
                    await self._publish(page)
                    await self._store.append(write=partial(_save_cursor, page[-1].position))
                if loop.time() > until:
                    return

    async def _publish(self, page: Sequence[RecordedEvent]) -> None:
        """Publish consecutive events; return when all are acknowledged."""
        in_flight: deque[tuple[int, asyncio.Task[None]]] = deque()
        latest_of: dict[str, asyncio.Task[None]] = {}
        async with asyncio.TaskGroup() as group:
            for event in page:
                if len(in_flight) == WINDOW:
                    position, oldest = in_flight.popleft()
                    await oldest
                    self._acknowledged = position
                if event.stream in latest_of:
                    await latest_of[event.stream]
                task = group.create_task(self._sink.publish(event))
                in_flight.append((event.position, task))
                latest_of[event.stream] = task
        self._acknowledged = page[-1].position


def _certain(held: int | None, cursor: int, last: int) -> int:
    """Return up to which position the broker holds every event.

    Args:
        held: the last position that it holds; None when it cannot tell.
        cursor: up to here it acknowledged every event, once.
        last: the last position that was recorded.

    """
    if held is None or held > last:  # events of a log that was lost since tell nothing
        return cursor
    without_gaps = max(0, held - WINDOW)
    return without_gaps if held < cursor else max(cursor, without_gaps)


def _save_cursor(position: int, connection: Connection) -> None:
    changed = connection.execute(
        update(cursors).where(cursors.c.name == _CURSOR).values(position=position)
    )
    if changed.rowcount == 0:
        connection.execute(insert(cursors).values(name=_CURSOR, position=position))
