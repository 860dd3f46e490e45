"""Committing what waits, together: one transaction, one flush to disk, many appends.

All of it runs in one thread. Nothing is read before the insert: the keys of the tables notice
conflicts. When that makes a batch fail, it is rolled back and its changes are tried one by one,
each in a savepoint, so that a refused one costs its neighbours nothing; only then is it worth
reading why.

When the connection breaks during a commit, the log itself tells whether it was written: whoever
holds the head of the log knows that the broken transaction has ended, one way or the other.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from itertools import count
from typing import Final, TypeAlias

from sqlalchemy import BigInteger, Connection, bindparam, case, update
from sqlalchemy.exc import DBAPIError

from engineshed import ids
from engineshed.eventstore import codec, reading, schema
from engineshed.eventstore.database import CommitInterruptedError, Database
from engineshed.eventstore.errors import (
    NotLeaderError,
    RequestRepeatedError,
    StoreUnavailableError,
    StreamConflictError,
)
from engineshed.eventstore.model import Idempotency, RecordedEvent, StreamAppend
from engineshed.eventstore.rows import insert_rows

Project: TypeAlias = Callable[[Connection, Sequence[RecordedEvent]], None]
Write: TypeAlias = Callable[[Connection], None]

# How long, after a commit was interrupted, the database may take to come back and tell.
_DOUBT_S: Final = 10.0
_ASK_AGAIN_S: Final = 0.2


@dataclass(frozen=True, slots=True)
class Change:
    """What one call wants written, all or nothing."""

    appends: Sequence[StreamAppend]
    idempotency: Idempotency | None
    write: Write | None


# The events of a change, or why it was not written.
Outcome: TypeAlias = list[RecordedEvent] | Exception


@dataclass(frozen=True, slots=True)
class _Head:
    position: int  # the last one that was given before
    moment: int  # recorded_at of what is written now


class Writer:
    """Writes batches of changes; not thread-safe."""

    def __init__(
        self, database: Database, project: Project | None, clock: Callable[[], datetime]
    ) -> None:
        self._database = database
        self._project = project
        self._clock = clock
        self.term: int | None = None  # in which alone it may write; None: in any

    def commit(self, batch: Sequence[Change]) -> Sequence[Outcome]:
        """Write the batch and return each change's outcome, once that is on disk.

        `project` and `write` may be called a second time for a change, after what they did at
        first has been rolled back.

        Raises:
            StoreUnavailableError: the database takes nothing; no change was written.
            NotLeaderError: another process leads; no change was written.

        """
        try:
            return self._together(batch)
        except (StoreUnavailableError, NotLeaderError):
            raise
        except Exception:  # noqa: BLE001 - whatever it was, the one who caused it gets it below
            return self._one_by_one(batch)

    def _together(self, batch: Sequence[Change]) -> Sequence[list[RecordedEvent]]:
        recorded: list[list[RecordedEvent]] = []
        try:
            with self._transaction(_count(batch)) as (connection, head):
                recorded = self._write(connection, head, batch)
        except CommitInterruptedError:
            self._require_written(recorded)
        return recorded

    def _one_by_one(self, batch: Sequence[Change]) -> list[Outcome]:
        outcomes: list[Outcome] = []
        try:
            with self._transaction() as (connection, head):
                outcomes = [self._alone(connection, head.moment, change) for change in batch]
        except CommitInterruptedError:
            self._require_written([one for one in outcomes if isinstance(one, list)])
        return outcomes

    def _alone(self, connection: Connection, moment: int, change: Change) -> Outcome:
        savepoint = connection.begin_nested()
        try:
            _refuse(connection, change)
            head = self._advance(connection, _count([change]), moment)
            (recorded,) = self._write(connection, head, [change])
        except Exception as error:
            if isinstance(error, DBAPIError) and self._database.failure(error):
                raise
            savepoint.rollback()  # raises if the database has undone everything
            return error
        savepoint.commit()
        return recorded

    @contextmanager
    def _transaction(self, events: int = 0) -> Iterator[tuple[Connection, _Head]]:
        """Hold the head of the log, so that no other writer gives positions, until the commit.

        It is moved on by so many events already; what is yielded is from where.
        """
        with self._database.write() as connection:
            yield connection, self._advance(connection, events, codec.to_moment(self._clock()))

    def _advance(self, connection: Connection, events: int, moment: int) -> _Head:
        parameters = {"events": events, "moment": moment}
        position, moment, term = connection.execute(_ADVANCE, parameters).one()
        if self.term not in (None, term):
            raise NotLeaderError(f"term {self.term} is over; this is term {term}")
        return _Head(position - events, moment)

    def _require_written(self, recorded: Sequence[Sequence[RecordedEvent]]) -> None:
        """Find out whether an interrupted commit, of all of `recorded`, has happened.

        Raises:
            StoreUnavailableError: it has not, or nobody can tell.

        """
        event_id = next((group[0].event_id for group in recorded if group), None)
        deadline = time.monotonic() + _DOUBT_S
        while event_id is not None:
            try:
                with self._transaction() as (connection, _):
                    written = reading.has_event(connection, event_id)
            except StoreUnavailableError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(_ASK_AGAIN_S)
            else:
                if written:
                    return
                break
        raise StoreUnavailableError("the connection to the database broke; try again")

    def _write(
        self, connection: Connection, head: _Head, changes: Sequence[Change]
    ) -> list[list[RecordedEvent]]:
        """Write all of `changes` behind `head`.

        Raises:
            IntegrityError: a key noticed a conflict.

        """
        recorded = _record(head, changes)
        rows = [codec.encode(event, head.moment) for group in recorded for event in group]
        if rows:
            insert_rows(connection, schema.events, rows)
        answers = [_answer(change.idempotency, head) for change in changes if change.idempotency]
        insert_rows(connection, schema.requests, answers)
        if self._project is not None and rows:
            self._project(connection, [event for group in recorded for event in group])
        for change in changes:
            if change.write is not None:
                change.write(connection)
        return recorded


_columns = schema.log_head.c
_moment = bindparam("moment", type_=BigInteger)
_ADVANCE: Final = (
    update(schema.log_head)
    .values(
        position=_columns.position + bindparam("events", type_=BigInteger),
        recorded_at=case((_columns.recorded_at > _moment, _columns.recorded_at), else_=_moment),
    )
    .returning(_columns.position, _columns.recorded_at, _columns.term)
)


def _count(changes: Sequence[Change]) -> int:
    return sum(len(append.events) for change in changes for append in change.appends)


def _record(head: _Head, changes: Sequence[Change]) -> list[list[RecordedEvent]]:
    recorded_at = codec.from_moment(head.moment)
    positions = count(head.position + 1)
    event_ids = iter(ids.several(ids.EVENT, _count(changes)))
    return [
        [
            RecordedEvent(
                next(positions),
                next(event_ids),
                append.stream,
                version,
                event.DESCRIPTOR.full_name,
                event,
                append.metadata,
                recorded_at,
            )
            for append in change.appends
            for version, event in enumerate(append.events, start=append.expected_version + 1)
        ]
        for change in changes
    ]


def _answer(idempotency: Idempotency, head: _Head) -> tuple[str, str, str, str, bytes, bytes, int]:
    return (
        idempotency.request_id,
        idempotency.org_id,
        idempotency.actor,
        idempotency.method,
        idempotency.request_hash,
        idempotency.response,
        head.moment,
    )


def _refuse(connection: Connection, change: Change) -> None:
    """Say why `change` cannot be written, if so; exact, because the head of the log is held."""
    request = change.idempotency
    if request is not None:
        response = reading.answer(connection, request)
        if response is not None:
            raise RequestRepeatedError(
                f"request {request.request_id!r} has been carried out already",
                response=response,
                request_id=request.request_id,
            )
    versions: dict[str, int] = {}
    for append in change.appends:
        stream, expected = append.stream, append.expected_version
        if stream not in versions:
            versions[stream] = reading.stream_version(connection, stream)
        if versions[stream] != expected:
            raise StreamConflictError(
                f"{stream} is at version {versions[stream]}, not {expected}; "
                "read it again, then retry",
                stream=stream,
                version=versions[stream],
                expected_version=expected,
            )
        versions[stream] += len(append.events)
