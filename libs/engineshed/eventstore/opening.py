"""Opening the database of an event store: of which kind it is, and that its tables are there."""

import re
from functools import partial
from typing import Final

from sqlalchemy import insert, select

from engineshed.eventstore.database import FORMS, Database
from engineshed.eventstore.migrating import LOG_TABLES, Tables, bring_up_to_date, is_current
from engineshed.eventstore.reading import head_position
from engineshed.eventstore.schema import log_head

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


def prepare(database: Database, tables: Tables | None) -> int:
    """See to it that the tables are there, as this code wants them; return the last position.

    Raises:
        SchemaError: newer code has been here, or another service.
        StoreUnavailableError: the database does not answer.

    """
    sets = [LOG_TABLES, *([tables] if tables else ())]
    if not database.read(partial(is_current, sets=sets)):
        with database.write() as connection:
            database.claim(connection)
            bring_up_to_date(connection, sets)
            if connection.scalar(select(log_head.c.position)) is None:
                connection.execute(insert(log_head), {"id": 1, "position": 0, "recorded_at": 0})
    return database.read(head_position)
