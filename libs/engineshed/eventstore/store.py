"""The event store of one service: asyncio outside, one thread that writes and a few that read."""

import asyncio
import re
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, suppress
from datetime import UTC, datetime
from typing import Final, Self, TypeAlias, TypeVar

import structlog
from google.protobuf.message import Message
from sqlalchemy import Connection

from engineshed.eventstore import codec, reading
from engineshed.eventstore.database import READERS, Database
from engineshed.eventstore.errors import StoreUnavailableError
from engineshed.eventstore.forgetting import keep_forgetting
from engineshed.eventstore.metrics import StoreMetrics
from engineshed.eventstore.migrating import Tables
from engineshed.eventstore.model import Idempotency, RecordedEvent, Selection, StreamAppend
from engineshed.eventstore.opening import open_database, prepare
from engineshed.eventstore.patience import until_available
from engineshed.eventstore.writer import Change, Outcome, Project, Write, Writer

T = TypeVar("T")

# A transaction takes at most so many appends, so that none waits for thousands of others.
_MAX_BATCH: Final = 512

# How many events a follower reads at once.
_PAGE: Final = 500

# How many events are folded in one transaction.
_FOLD_PAGE: Final = 2000

# How soon a follower sees what another process committed; commits of this process wake it at once.
_POLL_S: Final = 2.0

# No call waits longer; the database has given up before, unless it hangs altogether.
_LONGEST_S: Final = 45.0

# What a fold does with each event: its stream, what it says, and when that was recorded.
Take: TypeAlias = Callable[[str, Message, datetime], None]

_Waiting: TypeAlias = tuple[Change, asyncio.Future[list[RecordedEvent]]]

_log: Final[structlog.stdlib.BoundLogger] = structlog.get_logger()

_STREAM: Final = re.compile(r"[a-z]+/[A-Za-z0-9_-]+")
_ORG: Final = re.compile(r"[A-Za-z0-9_-]+")


def _now() -> datetime:
    return datetime.now(UTC)


def _no_answer() -> StoreUnavailableError:
    return StoreUnavailableError(f"the database has not answered within {_LONGEST_S:g} s")


def _check(append: StreamAppend) -> None:
    """Refuse what could be recorded but never published: the relay would be stuck behind it."""
    if not append.events:
        raise ValueError(f"{append.stream}: no events to append")
    if not _STREAM.fullmatch(append.stream):
        raise ValueError(f"stream {append.stream!r} is not named <aggregate>/<id>")
    if not _ORG.fullmatch(append.metadata.org_id):
        raise ValueError(f"{append.stream}: {append.metadata.org_id!r} is no organization's id")


class EventStore:
    """The log of a service and its read models, in one database.

    Several stores, in several processes too, may be open on one database. A store belongs to the
    event loop that it was opened in.
    """

    def __init__(
        self,
        service: str,
        database: Database,
        writer: Writer,
        position: int,
        clock: Callable[[], datetime],
    ) -> None:
        self.service = service
        self._database = database
        self._writer = writer
        self._write_thread = ThreadPoolExecutor(1, thread_name_prefix=f"{service}-write")
        self._read_threads = ThreadPoolExecutor(READERS, thread_name_prefix=f"{service}-read")
        self._waiting: list[_Waiting] = []
        self._committing: asyncio.Task[None] | None = None
        self._committed = asyncio.Event()  # set, and replaced by a new one, at each commit
        self._known_position = position
        self._closed = False
        self.now = clock
        self.metrics = StoreMetrics()
        self._forgetting = asyncio.create_task(keep_forgetting(self))

    @classmethod
    async def open(
        cls,
        url: str,
        *,
        service: str,
        tables: Tables | None = None,
        project: Project | None = None,
        clock: Callable[[], datetime] = _now,
    ) -> Self:
        """Open the store; tables that are missing are made, older ones are migrated.

        While the database does not answer, this waits for it and says so in the log.

        Args:
            url: where, e.g. `sqlite:////var/lib/engineshed/catalog.db` or
                `postgresql://user:password@host/database`.
            service: whose store it is, e.g. `catalog`; on PostgreSQL the schema's name, too.
            tables: those of the service's read models.
            project: brings the read models up to date with events, in the transaction that
                records them. It gets those of all appends that are committed together, in the
                order of positions, so that it can write rows of a kind together. It runs in the
                writer's thread and must do nothing but write to its connection: when it raises,
                all is undone and it is called again for each append; those for which it raises
                again fail.
            clock: returns the time, aware.

        Raises:
            ValueError: the URL names a database that is not supported.
            SchemaError: newer code has used the database, or another service.

        """
        database = await asyncio.to_thread(open_database, url, service)
        position = await until_available(lambda: asyncio.to_thread(prepare, database, tables))
        return cls(service, database, Writer(database, project, clock), position, clock)

    @property
    def known_position(self) -> int:
        """The last position that this process has seen; another process may be further."""
        return self._known_position

    async def append(
        self,
        *appends: StreamAppend,
        idempotency: Idempotency | None = None,
        write: Write | None = None,
    ) -> list[RecordedEvent]:
        """Record events; return them when they are on disk.

        All streams, the read models, the answer to `idempotency` and what `write` adds are
        written in one transaction, or nothing is. What waits at the same time is committed
        together. When the caller is cancelled, the append may or may not happen.

        Args:
            appends: what to add to which streams.
            idempotency: the request that caused it; a second append for it is refused.
            write: writes more rows, after `project`; under the same conditions as `project`.
                Without events beside it, it must be something that can be repeated.

        Raises:
            StreamConflictError: a stream is not at its expected version.
            RequestRepeatedError: the request was carried out already; it carries the answer.
            RequestIdReusedError: the request's id was used for a different request.
            EventTooLargeError: a broker would not carry an event.
            StoreUnavailableError: the database takes no writes.
            NotLeaderError: the store is fenced, and its term is over.
            ValueError: an append has no events, or names that cannot be a subject of the bus.

        """
        self._require_open()
        for append in appends:
            _check(append)
        loop = asyncio.get_running_loop()
        future: asyncio.Future[list[RecordedEvent]] = loop.create_future()
        self._waiting.append((Change(appends, idempotency, write), future))
        if self._committing is None or self._committing.done():
            self._committing = asyncio.create_task(self._commit_waiting())
        return await future

    def fence(self, term: int) -> None:
        """Append only in this term from now on: `NotLeaderError` once the term is over."""
        self._writer.term = term

    async def recall(self, key: Idempotency) -> bytes | None:
        """Return how an identical request was answered before; None when there was none.

        Raises:
            RequestIdReusedError: its id was used for a different request.

        """
        return await self.query(lambda connection: reading.answer(connection, key))

    async def load(self, stream: str, *, as_of: datetime | None = None) -> list[RecordedEvent]:
        """Return the events of a stream, as they were at a moment (aware) or as they are now.

        Raises:
            UnknownEventTypeError: newer code wrote one of them.

        """
        return await self.query(lambda connection: reading.stream(connection, stream, as_of))

    async def version(self, stream: str) -> int:
        """Return the version of a stream; 0 when it does not exist."""
        return await self.query(lambda connection: reading.stream_version(connection, stream))

    async def read(
        self,
        after_position: int,
        limit: int = _PAGE,
        *,
        stream: str | None = None,
        org_id: str | None = None,
        types: Sequence[str] = (),
    ) -> list[RecordedEvent]:
        """Return up to `limit` events after a position, in order; those that fit the filters.

        Raises:
            UnknownEventTypeError: newer code wrote one of them.

        """
        selection = Selection(stream or "", org_id or "", types)
        return (await self._page(after_position, limit, selection)).events

    async def fold(self, take: Take) -> None:
        """Give the whole log to `take`, event by event in order.

        It is called in a thread of the store's, so that the loop goes on meanwhile.

        Raises:
            UnknownEventTypeError: newer code wrote one of the events.

        """
        position = 0  # they are gapless

        def take_page(connection: Connection) -> bool:
            nonlocal position
            before = position
            for stream, type_, data, moment in reading.fold_rows(connection, before, _FOLD_PAGE):
                # Each message is dropped before the next one is made, which saves half of its cost.
                event = codec.message_class(type_).FromString(data)
                take(stream, event, codec.from_moment(moment))
                position += 1
            return position > before

        while await self.query(take_page):
            pass

    async def follow(
        self,
        after_position: int,
        *,
        stream: str | None = None,
        org_id: str | None = None,
        types: Sequence[str] = (),
    ) -> AsyncGenerator[RecordedEvent]:
        """Yield the events after a position, then new ones as they are committed; never ends.

        Raises:
            UnknownEventTypeError: newer code wrote one of them.

        """
        selection = Selection(stream or "", org_id or "", types)
        async with aclosing(self.follow_pages(after_position, selection)) as pages:
            async for page in pages:
                for event in page:
                    yield event

    async def follow_pages(
        self, after_position: int, selection: Selection
    ) -> AsyncGenerator[list[RecordedEvent]]:
        """Yield what `follow` does in lists; an empty one at least once in `_POLL_S`.

        While the database does not answer, there is nothing new.
        """
        while True:
            committed = self._committed  # before the read: a commit during it counts
            try:
                page = await self._page(after_position, _PAGE, selection)
            except StoreUnavailableError as error:
                _log.warning("following later", service=self.service, error=error.message)
                page = reading.Page([], after_position)
            after_position = page.through
            yield page.events
            if len(page.events) < _PAGE:
                with suppress(TimeoutError):  # look anyway: another process may have committed
                    async with asyncio.timeout(_POLL_S):
                        await committed.wait()

    async def query(self, fn: Callable[[Connection], T]) -> T:
        """Return what `fn` reads; it runs in a thread, on one snapshot, and cannot write.

        It is called again when the connection turns out to be broken.

        Raises:
            StoreUnavailableError: the database does not answer.

        """
        self._require_open()
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(_LONGEST_S):
                return await loop.run_in_executor(self._read_threads, self._database.read, fn)
        except TimeoutError as error:
            raise _no_answer() from error

    async def last_position(self) -> int:
        """Return the last position of the log; 0 when it is empty."""
        return await self.query(reading.head_position)

    async def close(self) -> None:
        """Write what waits, then close the database."""
        self._closed = True
        self._forgetting.cancel()
        if self._committing is not None:
            await self._committing
        await asyncio.to_thread(self._shut_down)

    def _shut_down(self) -> None:
        self._write_thread.shutdown()
        self._read_threads.shutdown()
        self._database.close()

    def _require_open(self) -> None:
        if self._closed:
            raise RuntimeError(f"the event store of {self.service} is closed")

    async def _page(self, after: int, limit: int, selection: Selection) -> reading.Page:
        page = await self.query(
            lambda connection: reading.page(connection, after, limit, selection)
        )
        self._known_position = max(self._known_position, page.through)
        return page

    async def _commit_waiting(self) -> None:
        """Commit until nothing waits; what arrives during a commit is the next batch."""
        while self._waiting:
            batch, self._waiting = self._waiting[:_MAX_BATCH], self._waiting[_MAX_BATCH:]
            try:
                await self._commit(batch)
            finally:  # whatever happened, nobody waits for ever
                for _, future in batch:
                    future.cancel()

    async def _commit(self, batch: Sequence[_Waiting]) -> None:
        loop = asyncio.get_running_loop()
        changes = [change for change, _ in batch]
        began = loop.time()
        outcomes: Sequence[Outcome]
        try:
            async with asyncio.timeout(_LONGEST_S):
                outcomes = await loop.run_in_executor(
                    self._write_thread, self._writer.commit, changes
                )
        except TimeoutError:
            outcomes = [_no_answer()] * len(batch)
        except Exception as error:  # noqa: BLE001 - everybody who waits gets it
            outcomes = [error] * len(batch)
        self.metrics.note(outcomes, loop.time() - began)
        for (_, future), outcome in zip(batch, outcomes, strict=True):
            if future.done():
                continue  # its caller was cancelled
            if isinstance(outcome, Exception):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)
        self._announce([outcome for outcome in outcomes if isinstance(outcome, list)])

    def _announce(self, committed: Sequence[Sequence[RecordedEvent]]) -> None:
        positions = [events[-1].position for events in committed if events]
        if positions:
            self._known_position = max(self._known_position, *positions)
            self._committed.set()
            self._committed = asyncio.Event()
