"""Opening the database of an event store: of which kind it is, and that its tables are there."""

import re
from typing import Final

from sqlalchemy import MetaData, insert, select

from engineshed.eventstore.database import FORMS, Database
from engineshed.eventstore.schema import LOG, log_head

_SERVICE: Final = re.compile(r"[a-z][a-z0-9_]*")  # it names a schema, too


def open_database(url: str, service: str) -> Database:
    """Return the database at a URL; a missing SQLite file is made, nothing else is done yet.

    Raises:
        ValueError: the URL names a database that an event store cannot live in.

    """
    if not _SERVICE.fullmatch(service):
        raise ValueError(f"{service!r} is no name of a service")
    scheme = url.partition(":")[0]
    match scheme:
        case "sqlite":
            from engineshed.eventstore.sqlite import open_sqlite

            return open_sqlite(url)
        case "postgresql" | "postgres":
            # Its driver is loaded by those who use it.
            from engineshed.eventstore.postgresql import open_postgresql

            return open_postgresql(url, service)
        case _:
            raise ValueError(
                f"ENGINESHED_DATABASE_URL: {scheme!r} is no database that is supported; "
                f"the form is {FORMS}"
            )


def prepare(database: Database, metadata: MetaData | None) -> int:
    """Make what is missing; return the last position of the log.

    Raises:
        StoreUnavailableError: the database does not answer.

    """
    with database.write() as connection:
        database.claim(connection)
        LOG.create_all(connection)
        if metadata is not None:
            metadata.create_all(connection)
        position = connection.scalar(select(log_head.c.position))
        if position is None:
            connection.execute(insert(log_head), {"id": 1, "position": 0, "recorded_at": 0})
        return position or 0
