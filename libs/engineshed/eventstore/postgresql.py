"""Event stores on a PostgreSQL server: a schema for each service, and a limit to every wait.

What a transaction needs is set at its beginning, in the same message, and ends with it. Nothing is
kept in the session, so that a pooler may stand in between.
"""

import logging
from collections.abc import Mapping
from typing import Any, Final

import psycopg
import structlog
from psycopg import conninfo
from sqlalchemy import Connection, Engine, QueuePool, create_engine, event, text
from sqlalchemy.exc import DBAPIError

from engineshed.eventstore.database import FORMS, READERS, Database

# What libpq is told where the URL says nothing. Without it a vanished host is missed for hours.
_CONNECTING: Final[Mapping[str, str]] = {
    "connect_timeout": "3",  # seconds, for each host that the URL names
    "keepalives_idle": "5",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "15000",  # milliseconds
    "target_session_attrs": "read-write",  # of several hosts, the primary
}

# An acknowledged append is on disk. Other modes than off, e.g. remote_apply, are stricter.
_DURABLE: Final = (
    "SELECT set_config('synchronous_commit', "
    "CASE setting WHEN 'off' THEN 'on' ELSE setting END, true) "
    "FROM current_setting('synchronous_commit') AS setting"
)

# A process that is stopped in the middle of its transaction must not keep the others waiting.
_LIMITS: Final = (
    "SET LOCAL lock_timeout = '10s'; "
    "SET LOCAL statement_timeout = '30s'; "
    "SET LOCAL idle_in_transaction_session_timeout = '5s'"
)

# While tables are changed, there is nobody yet who is kept waiting.
_PATIENCE: Final = "SET LOCAL lock_timeout = '5min'; SET LOCAL statement_timeout = '1h'"

# Of this class of errors the server is to blame, and not the statement that it was given.
_SERVER_FAILED: Final = (
    "08",  # connection exception
    "25006",  # it is read-only now: a standby
    "40",  # transaction rollback, e.g. a deadlock
    "53",  # insufficient resources, e.g. disk full
    "55P03",  # lock not available in time
    "57",  # operator intervention, e.g. shutdown; canceled as it took too long
    "58",  # system error
)

# It warns of every conflict that ends a batch, which is none of its business.
logging.getLogger("psycopg").setLevel(logging.ERROR)

_log: Final[structlog.stdlib.BoundLogger] = structlog.get_logger()


def open_postgresql(url: str, schema: str) -> Database:
    """Return the database at a URL of libpq's form; its tables are those of one schema.

    Nothing is connected yet.

    Raises:
        ValueError: libpq cannot read the URL.

    """
    begin = f'SET LOCAL search_path = "{schema}"; {_LIMITS}'
    parameters = _parameters(url, schema)
    return Database(
        writer=_engine(
            parameters,
            connections=1,
            begin=f"BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; {begin}; {_DURABLE}",
        ),
        reader=_engine(
            parameters,
            connections=READERS,
            begin=f"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; {begin}",
        ),
        failure=_failure,
        claim=lambda connection: _claim(connection, schema),
    )


def _parameters(url: str, schema: str) -> dict[str, Any]:
    try:
        given = conninfo.conninfo_to_dict(url)
        # A slash in a password makes libpq take the password for a port.
        readable = str(given.get("port", "")).replace(",", "").isdecimal() or "port" not in given
    except psycopg.ProgrammingError:  # what it says may quote the password
        given, readable = {}, False
    if not readable:
        raise ValueError(
            f"ENGINESHED_DATABASE_URL: libpq cannot read it; the form is {FORMS}, with other "
            "characters than letters and digits in user and password percent-encoded"
        )
    return {**_CONNECTING, "application_name": f"engineshed {schema}", **given}


def _engine(parameters: Mapping[str, Any], *, connections: int, begin: str) -> Engine:
    engine = create_engine(
        "postgresql+psycopg://",
        # Not SQLAlchemy's own URL, which knows less: several hosts, sockets, service files.
        creator=lambda: psycopg.connect(**parameters, autocommit=True),
        poolclass=QueuePool,
        pool_size=connections,
        max_overflow=0,
        hide_parameters=True,
    )

    def began(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    event.listen(engine, "begin", began)
    return engine


def _failure(error: DBAPIError) -> str | None:
    driver = error.orig
    if not isinstance(driver, psycopg.Error):
        return None
    if driver.sqlstate is None:  # no server said it
        broken = isinstance(driver, psycopg.OperationalError | psycopg.InterfaceError)
        return "no connection to its server" if broken else None
    if driver.sqlstate.startswith(_SERVER_FAILED):
        return driver.diag.message_primary
    return None


def _claim(connection: Connection, schema: str) -> None:
    """Wait until nobody else changes the tables, and make the schema if it is missing."""
    connection.exec_driver_sql(_PATIENCE)
    connection.execute(
        text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))"),
        {"name": f"engineshed {schema}"},
    )
    # Asked first: who may not make schemas may use one that is there.
    found = connection.scalar(
        text("SELECT count(*) FROM pg_namespace WHERE nspname = :schema"), {"schema": schema}
    )
    if not found:
        connection.execute(text(f'CREATE SCHEMA "{schema}"'))
        _log.info("schema created", schema=schema)
