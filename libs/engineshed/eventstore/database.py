"""The database of an event store, whichever it is: two ways into it, and what its errors mean.

What makes each kind safe is in `sqlite.py` and `postgresql.py`.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final, TypeVar

import structlog
from sqlalchemy import Connection, Engine, Transaction
from sqlalchemy.exc import DBAPIError

from engineshed.eventstore.errors import StoreUnavailableError

T = TypeVar("T")

READERS: Final = 4  # connections, and threads, for reads

FORMS: Final = "postgresql://user:password@host:5432/database or sqlite:////absolute/path.db"

_log: Final[structlog.stdlib.BoundLogger] = structlog.get_logger()


class CommitInterruptedError(StoreUnavailableError):
    """The connection broke while a transaction was committed: it may or may not have been."""


@dataclass(frozen=True, slots=True)
class Database:
    """Two ways into one database."""

    writer: Engine  # one connection, for `write`
    reader: Engine  # `READERS` connections that can only read, each transaction one snapshot
    failure: Callable[[DBAPIError], str | None]  # how it failed; None: what it was asked is wrong
    claim: Callable[[Connection], None]  # keeps others from changing tables, until the commit

    def read(self, fn: Callable[[Connection], T]) -> T:
        """Return what `fn` reads on one snapshot; it may be called a second time.

        Raises:
            StoreUnavailableError: the database does not answer.

        """
        with self._failures_named("cannot be read now"):
            try:
                return self._read_once(fn)
            except DBAPIError as error:
                if not error.connection_invalidated:
                    raise
                return self._read_once(fn)  # the server was restarted, maybe long ago

    def _read_once(self, fn: Callable[[Connection], T]) -> T:
        with self.reader.connect() as connection, connection.begin():
            return fn(connection)

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """Commit what is written in the block, or nothing if it raises.

        Raises:
            StoreUnavailableError: the database takes no writes; nothing was written.
            CommitInterruptedError: nobody knows whether it was written.

        """
        with self._failures_named("takes no writes now"):
            connection, transaction = self._begin()
            with connection:
                try:
                    yield connection
                except BaseException:
                    with suppress(DBAPIError):  # then it is undone anyway
                        transaction.rollback()
                    raise
                try:
                    transaction.commit()
                except DBAPIError as error:
                    if not error.connection_invalidated:
                        raise
                    raise CommitInterruptedError(
                        "the database broke off during the commit; whether anything was written "
                        "shows when it is back"
                    ) from error

    def _begin(self) -> tuple[Connection, Transaction]:
        """Begin a transaction, on a new connection if the old one is broken."""
        for first in (True, False):
            connection = self.writer.connect()
            try:
                return connection, connection.begin()
            except DBAPIError as error:
                connection.close()
                if not (first and error.connection_invalidated):
                    raise
        raise AssertionError("the second attempt returns or raises")

    @contextmanager
    def _failures_named(self, what: str) -> Iterator[None]:
        """Raise StoreUnavailableError where the database failed, not what it was asked."""
        try:
            yield
        except DBAPIError as error:
            failure = self.failure(error)
            if failure is None:
                raise
            # Callers need not know where the server is; its operator does.
            _log.warning("database failed", error=" ".join(str(error.orig).split()))
            raise StoreUnavailableError(f"the database {what}: {failure}") from error

    def close(self) -> None:
        """Close all connections."""
        self.reader.dispose()
        self.writer.dispose()
