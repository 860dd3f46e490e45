"""The outbox relay: every committed event reaches the broker, in order, at least once.

Several events are in flight at once, but never two of one stream, and none that is `WINDOW` or
more positions ahead of the first that is not acknowledged. So when a broker holds an event, it
holds all up to `WINDOW` positions before it, even if one in between was lost.

A broker that crashes may also lose the end of what it had acknowledged. Therefore the last event
of every page travels alone, and becomes the settled position: the broker stored everything up to
it before anything behind it. While the broker's last event is the settled one or a later one,
nothing up to it is lost. It is written down beside the publishing, seldom when much happens: an
older one is never wrong, only more is repeated after a restart. After an error the relay goes on
from there, or from `WINDOW` positions before the broker's last event, whichever is later. What it
repeats carries the same event id.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from contextlib import aclosing, suppress
from datetime import datetime
from functools import partial
from typing import Final, Protocol

import structlog
from sqlalchemy import Connection, insert, update

from engineshed.eventstore.errors import (
    NotLeaderError,
    StoreUnavailableError,
    UnknownEventTypeError,
)
from engineshed.eventstore.metrics import RelayMetrics
from engineshed.eventstore.model import RecordedEvent, Selection
from engineshed.eventstore.patience import until_available
from engineshed.eventstore.reading import cursor
from engineshed.eventstore.schema import cursors
from engineshed.eventstore.store import EventStore

_log = structlog.get_logger()

WINDOW: Final = 64

_CURSOR: Final = "relay"
_SAVE_S: Final = 0.1  # between two times that the settled position is written down
_SAVE_AT_END_S: Final = 1.0
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
    """Publishes the log of one store to one sink. A log has one relay at a time."""

    def __init__(self, store: EventStore, sink: EventSink) -> None:
        self._store = store
        self._sink = sink
        self._acknowledged = 0  # every event up to here was
        self._settled = 0
        self._saved = 0  # the settled position that is written down
        self._saving: asyncio.Task[None] | None = None
        self._in_doubt = 0  # events up to here may be held already, in any order
        self._oldest: datetime | None = None  # of the events that are on their way
        self.published = 0  # acknowledgements so far, those of repeated events included
        self.metrics = RelayMetrics(self)

    @property
    def lag(self) -> int:
        """How many committed events are not known to be published."""
        return max(0, self._store.known_position - self._acknowledged)

    @property
    def oldest_unpublished(self) -> datetime | None:
        """When the first of these was recorded, as far as it is known; None: there is none."""
        return self._oldest if self.lag else None

    async def run(self) -> None:
        """Publish for ever; after an error, ask the sink what it holds and go on from there."""
        self._settled = await until_available(
            lambda: self._store.query(lambda connection: cursor(connection, _CURSOR))
        )
        self._acknowledged = self._saved = self._settled
        try:
            await self._publish_for_ever()
        finally:
            await self._end_saving()

    async def _publish_for_ever(self) -> None:
        pause = _FIRST_PAUSE_S
        while True:
            before = self._acknowledged
            try:
                await self._resume()
                await self._publish_while_held()
            except Exception as error:  # noqa: BLE001 - the events are safe; the broker may return
                if self._acknowledged > before:
                    pause = _FIRST_PAUSE_S
                self.metrics.interruptions += 1
                await self._look_at_oldest()
                _log.warning(
                    "relay interrupted",
                    service=self._store.service,
                    lag=self.lag,
                    retry_in_s=pause,
                    error=repr(error),
                )
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_S)

    async def _look_at_oldest(self) -> None:
        """Find out since when an event waits that nobody has tried to publish yet."""
        with suppress(StoreUnavailableError, UnknownEventTypeError):
            page = await self._store.read(self._acknowledged, 1)
            self._oldest = page[0].recorded_at if page else None

    async def _resume(self) -> None:
        """Find out up to where the broker holds every event."""
        held = await self._sink.resume_position()
        last = await self._store.last_position()
        if held is None or held > last:  # a log that was replaced since tells nothing of this one
            certain = self._acknowledged
        elif held >= self._settled:
            certain = max(self._settled, held - WINDOW)
        else:
            certain = max(0, held - WINDOW)
            _log.warning(
                "the broker has lost events; publishing them again",
                service=self._store.service,
                after_position=certain,
                events=last - certain,
            )
            self._settled = 0
            await self._save()
        self._acknowledged = certain
        self._in_doubt = certain if held == self._settled else last

    async def _publish_while_held(self) -> None:
        """Publish what is there and what comes; return when the broker has lost some of it."""
        loop = asyncio.get_running_loop()
        asked = loop.time()
        async with aclosing(self._store.follow_pages(self._acknowledged, Selection())) as pages:
            async for page in pages:
                if page:
                    await self._publish(page[:-1])
                    await self._publish(page[-1:])
                    if self._acknowledged > self._in_doubt:
                        self._settled = self._acknowledged
                        self._save_soon()
                elif self._saved != self._settled:
                    self._save_soon()  # what failed before is tried again
                elif self._acknowledged == self._settled and loop.time() > asked + _ASK_AGAIN_S:
                    asked = loop.time()
                    held = await self._sink.resume_position()
                    if held is not None and held < self._settled:
                        return

    async def _publish(self, events: Sequence[RecordedEvent]) -> None:
        """Publish consecutive events; return when all are acknowledged."""
        in_flight: deque[tuple[RecordedEvent, asyncio.Task[None]]] = deque()
        latest_of: dict[str, asyncio.Task[None]] = {}
        # Not a TaskGroup: before Python 3.13 it forgets a cancellation when a task fails with it.
        try:
            for event in events:
                if len(in_flight) == WINDOW:
                    await self._oldest_acknowledged(in_flight)
                if event.stream in latest_of:
                    await latest_of[event.stream]
                task = asyncio.create_task(self._sink.publish(event))
                in_flight.append((event, task))
                latest_of[event.stream] = task
            while in_flight:
                await self._oldest_acknowledged(in_flight)
        finally:
            for _, task in in_flight:
                task.cancel()
            await asyncio.gather(*(task for _, task in in_flight), return_exceptions=True)

    async def _oldest_acknowledged(
        self, in_flight: deque[tuple[RecordedEvent, asyncio.Task[None]]]
    ) -> None:
        event, task = in_flight[0]
        self._oldest = event.recorded_at
        await task
        in_flight.popleft()
        self._acknowledged = event.position
        self._oldest = None
        self.published += 1

    def _save_soon(self) -> None:
        """Write the settled position down, beside what goes on; one at a time."""
        if self._saving is None or self._saving.done():
            self._saving = asyncio.create_task(self._keep_saved())

    async def _keep_saved(self) -> None:
        try:
            while self._saved != self._settled:
                await self._save()
                await asyncio.sleep(_SAVE_S)
        except Exception as error:  # noqa: BLE001 - what is written down is only older, not wrong
            _log.warning(
                "the relay's position is not written down",
                service=self._store.service,
                position=self._settled,
                error=repr(error),
            )

    async def _end_saving(self) -> None:
        """Leave the settled position on disk, so that the next relay repeats nothing."""
        if self._saving is not None:
            self._saving.cancel()
        if self._saved != self._settled:
            # It costs repetitions only: that is not worth holding up the end.
            with suppress(TimeoutError, StoreUnavailableError, NotLeaderError):
                async with asyncio.timeout(_SAVE_AT_END_S):
                    await self._save()

    async def _save(self) -> None:
        position = self._settled
        await self._store.append(write=partial(_save_cursor, position))
        self._saved = position


def _save_cursor(position: int, connection: Connection) -> None:
    changed = connection.execute(
        update(cursors).where(cursors.c.name == _CURSOR).values(position=position)
    )
    if changed.rowcount == 0:
        connection.execute(insert(cursors).values(name=_CURSOR, position=position))
