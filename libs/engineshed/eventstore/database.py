"""Opening the database of an event store: what each dialect needs to be safe."""

import sqlite3
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sqlalchemy import URL, Connection, Engine, QueuePool, create_engine, event, make_url
from sqlalchemy.exc import OperationalError

READERS: Final = 4  # connections, and threads, for reads

# How long a writer waits for another process to finish its transaction.
_BUSY_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Database:
    """Two ways into one database."""

    writer: Engine  # one connection; its transactions exclude other writers from their beginning
    reader: Engine  # `READERS` connections that can only read, each transaction one snapshot

    def close(self) -> None:
        """Close all connections."""
        self.reader.dispose()
        self.writer.dispose()


def open_database(url: str) -> Database:
    """Return the database at an SQLAlchemy URL; a missing SQLite file is made, mode 0600.

    Raises:
        ValueError: the URL names a database that an event store cannot live in.

    """
    parsed = make_url(url)
    match parsed.get_backend_name():
        case "sqlite":
            return _open_sqlite(parsed)
        case other:
            raise ValueError(f"event store URL: {other} is not supported; use sqlite:////path.db")


def database_failed(error: Exception) -> bool:
    """Tell whether the database failed (full disk, I/O error), not the statement it was given."""
    if not isinstance(error, OperationalError):
        return False
    # SQLite's driver reports wrong SQL by the same class, with the general error code.
    return getattr(error.orig, "sqlite_errorcode", None) != sqlite3.SQLITE_ERROR


def _open_sqlite(url: URL) -> Database:
    if url.database in (None, "", ":memory:"):
        raise ValueError("event store URL: it needs a file; use sqlite:////path.db")
    path = Path(str(url.database))
    path.touch(mode=0o600)
    path.chmod(0o600)  # the -wal and -shm files take their mode from it
    _use_write_ahead_log(path)
    writer = _sqlite_engine(url, connections=1, begin="BEGIN IMMEDIATE", pragmas=_WRITER_PRAGMAS)
    reader = _sqlite_engine(url, connections=READERS, begin="BEGIN", pragmas=_READER_PRAGMAS)
    return Database(writer, reader)


_WRITER_PRAGMAS: Final = ("synchronous = FULL", "foreign_keys = ON")
_READER_PRAGMAS: Final = ("query_only = ON",)


def _use_write_ahead_log(path: Path) -> None:
    """Switch the file to WAL, for good; of all its locks, SQLite does not wait for this one."""
    deadline = time.monotonic() + _BUSY_S
    with closing(sqlite3.connect(path, timeout=_BUSY_S)) as driver:
        while True:
            try:
                driver.execute("PRAGMA journal_mode = WAL")
            except sqlite3.OperationalError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
            else:
                return


def _sqlite_engine(url: URL, *, connections: int, begin: str, pragmas: tuple[str, ...]) -> Engine:
    engine = create_engine(
        url,
        poolclass=QueuePool,
        pool_size=connections,
        max_overflow=0,
        connect_args={"check_same_thread": False, "timeout": _BUSY_S},
    )

    def connected(driver: sqlite3.Connection, _record: object) -> None:
        driver.isolation_level = None  # no implicit BEGIN by Python's sqlite3: `began` does it
        for pragma in pragmas:
            driver.execute(f"PRAGMA {pragma}")

    def began(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    event.listen(engine, "connect", connected)
    event.listen(engine, "begin", began)
    return engine
