"""Event stores in an SQLite file: made for its owner alone, flushed at each commit."""

import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Final

from sqlalchemy import URL, Connection, Engine, QueuePool, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, OperationalError

from engineshed.eventstore.database import FORMS, READERS, Database

# How long a writer waits for another process to finish its transaction.
_BUSY_S: Final = 10.0

_WRITER_PRAGMAS: Final = ("synchronous = FULL", "foreign_keys = ON", "wal_autocheckpoint = 4000")
_READER_PRAGMAS: Final = ("query_only = ON",)


def open_sqlite(url: str) -> Database:
    """Return the database in a file, which is made if it is missing, mode 0600.

    Raises:
        ValueError: the URL names no file.

    """
    try:
        parsed = make_url(url)
    except ArgumentError:
        parsed = URL.create("sqlite")
    if parsed.database in (None, "", ":memory:"):
        raise ValueError(f"ENGINESHED_DATABASE_URL: {url!r} names no file; the form is {FORMS}")
    path = Path(str(parsed.database))
    path.touch(mode=0o600)
    path.chmod(0o600)  # the -wal and -shm files take their mode from it
    _use_write_ahead_log(path)
    return Database(
        writer=_engine(parsed, connections=1, begin="BEGIN IMMEDIATE", pragmas=_WRITER_PRAGMAS),
        reader=_engine(parsed, connections=READERS, begin="BEGIN", pragmas=_READER_PRAGMAS),
        failure=_failure,
        claim=lambda _: None,  # a writer's transaction excludes others from its beginning
    )


def _failure(error: DBAPIError) -> str | None:
    if not isinstance(error, OperationalError):
        return None
    # The driver reports wrong SQL by the same class, with the general error code.
    wrong = getattr(error.orig, "sqlite_errorcode", None) == sqlite3.SQLITE_ERROR
    return None if wrong else str(error.orig)


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


def _engine(url: URL, *, connections: int, begin: str, pragmas: tuple[str, ...]) -> Engine:
    engine = create_engine(
        url,
        poolclass=QueuePool,
        pool_size=connections,
        max_overflow=0,
        hide_parameters=True,
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
