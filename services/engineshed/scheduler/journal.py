"""What was recorded, and the picture that it makes. Nothing is acted on before it is recorded.

The view in memory is exactly what the log says: it is folded from the log at the start, and with
each append that has succeeded. There is one writer, the scheduler of the present term; the store
refuses what others want to write. Whoever finds that the log holds what the view lacks stops, and
starts again with what is true.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Any, TypeAlias, TypeVar
from weakref import WeakValueDictionary

from google.protobuf.message import Message
from sqlalchemy import Connection

from engineshed.eventstore import (
    EventStore,
    Idempotency,
    Metadata,
    NotLeaderError,
    RecordedEvent,
    StreamAppend,
    StreamConflictError,
)
from engineshed.scheduler.domain.view import View

T = TypeVar("T")

Write: TypeAlias = Callable[[Connection], None]


class Seen:
    """Which events of the log a view holds: all up to a position, and some further ones.

    What is recorded together on several streams is folded by whoever recorded it, so the later
    may be folded before the earlier; they touch each other nowhere.
    """

    def __init__(self) -> None:
        self.position = 0
        self.ahead: set[int] = set()

    def add(self, position: int) -> None:
        """Note one more."""
        self.ahead.add(position)
        while self.position + 1 in self.ahead:
            self.position += 1
            self.ahead.remove(self.position)


class Journal:
    """The log of this term, and the view that it makes."""

    def __init__(self, store: EventStore, term: int) -> None:
        self.store = store
        self.term = term
        self.view = View()
        self.seen = Seen()  # by the view
        self.changed = asyncio.Event()  # set when the view has changed
        self.placing = asyncio.Lock()  # held from a plan until what it gives away is recorded
        self._appending = 0  # appends under way
        self._beside: list[Write] = []  # what the next append is to write, too
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._behind: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @classmethod
    async def open(cls, store: EventStore, term: int) -> "Journal":
        """Fold all that was recorded before this process was elected for `term`."""
        journal = cls(store, term)

        def take(stream: str, event: Message, at: datetime) -> None:
            journal.view.apply(stream, event, at)
            journal.seen.position += 1  # they are gapless

        await store.fold(take)
        return journal

    async def watch(self) -> None:
        """Return by raising when the view cannot be that of the log any more; never otherwise.

        Raises:
            NotLeaderError: this process must end.

        """
        await self._behind

    def lock(self, stream: str) -> AbstractAsyncContextManager[None]:
        """Return what keeps others from deciding on the same stream."""
        lock = self._locks.get(stream)
        if lock is None:
            lock = self._locks[stream] = asyncio.Lock()
        return lock

    def is_locked(self, stream: str) -> bool:
        """Tell whether somebody is deciding on a stream."""
        lock = self._locks.get(stream)
        return lock is not None and lock.locked()

    async def finish(self, work: Coroutine[Any, Any, T]) -> T:
        """Return what `work` returns; it is finished even when the caller goes away.

        An append may happen after its caller was cancelled, and the view must follow.
        """
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        return await asyncio.shield(task)

    def write_beside(self, write: Write) -> None:
        """Let the next append write this too, in its transaction; it may be done twice."""
        self._beside.append(write)

    async def append(
        self,
        stream: str,
        expected: int,
        events: Sequence[Message],
        metadata: Metadata,
        idempotency: Idempotency | None = None,
        *,
        write: Write | None = None,
    ) -> list[RecordedEvent]:
        """Record events of a stream that is locked, then fold them; below `finish` only.

        Args:
            stream: theirs.
            expected: the version that it has.
            events: what is recorded.
            metadata: of the events.
            idempotency: the request behind them.
            write: writes what belongs to them, in their transaction; it may be called twice.

        Raises:
            NotLeaderError: another scheduler leads, or the log holds more than the view.
            RequestRepeatedError: the request was carried out already.
            StoreUnavailableError: the database takes no writes; nothing was recorded.

        """
        appends = [StreamAppend(stream, expected, events, metadata)] if events else []
        self._appending += 1
        try:
            recorded = await self._append(appends, idempotency, write)
        except StreamConflictError as error:
            raise self._fall_behind() from error
        finally:
            self._appending -= 1
        for event in recorded:
            self._fold(event)
        if self.seen.ahead and not self._appending:
            self._fall_behind()  # nobody is going to fold what is missing
        self.changed.set()
        return recorded

    def _fall_behind(self) -> NotLeaderError:
        """Note that an append was committed though the database could not say so any more."""
        behind = NotLeaderError("the scheduler starts again with what is recorded; try again")
        if not self._behind.done():
            self._behind.set_exception(behind)
        return behind

    async def _append(
        self,
        appends: Sequence[StreamAppend],
        idempotency: Idempotency | None,
        own: Write | None,
    ) -> list[RecordedEvent]:
        beside, self._beside = self._beside, []
        writes = [*beside, own] if own else beside

        def write(connection: Connection) -> None:
            for one in writes:
                one(connection)

        try:
            return await self.store.append(
                *appends, idempotency=idempotency, write=write if writes else None
            )
        except Exception:
            self._beside = beside + self._beside  # the next append may be luckier
            raise

    def _fold(self, recorded: RecordedEvent) -> None:
        self.view.apply(recorded.stream, recorded.event, recorded.recorded_at)
        self.seen.add(recorded.position)

    def _finished(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # its caller has it, or has gone


async def together(work: Iterable[Awaitable[object]]) -> None:
    """Wait for all of `work`, then raise the first error that any of it raised.

    So nothing of it is still under way when its consequences are thought about.
    """
    results = await asyncio.gather(*work, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
