"""Bringing a database to the tables that this code works with, forward only.

There are two sets of tables in the database of a service, that of the log and its own, and each
has its own version: the number of the last migration that it went through. A set that is not there
is made at once as it is now; a test holds that equal to what all migrations make. Alembic is only
loaded when there is something to migrate.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog
from sqlalchemy import Column, Connection, MetaData, String, Table, insert, select

from engineshed.eventstore.schema import LOG, log_head

# What version 0.1.0 made had no version yet.
_FIRST: Final = "0001"

_HERE: Final = Path(__file__).parent / "migrations"

_log: Final[structlog.stdlib.BoundLogger] = structlog.get_logger()


class SchemaError(RuntimeError):
    """The tables that were found are none that this code can work with."""


@dataclass(frozen=True, slots=True)
class Tables:
    """A set of tables that change together."""

    name: str
    metadata: MetaData
    migrations: Path  # a folder of modules `r<number>_<what>.py`

    @property
    def revisions(self) -> list[str]:
        """The numbers of the migrations, in their order."""
        return sorted(path.name[1:5] for path in self.migrations.glob("r[0-9]*.py"))

    @property
    def version(self) -> Table:
        """The table that holds the number of the last migration."""
        column: Column[str] = Column("version_num", String(32), primary_key=True)
        return Table(f"{self.name}_version", MetaData(), column)

    def found_version(self, connection: Connection) -> str | None:
        """Return the version of the tables in the database; None: nobody wrote it down."""
        if not connection.dialect.has_table(connection, self.version.name):
            return None
        return connection.scalar(select(self.version.c.version_num))


LOG_TABLES: Final = Tables("log", LOG, _HERE / "log")


def is_current(connection: Connection, sets: Sequence[Tables]) -> bool:
    """Tell whether there is nothing to do."""
    return all(one.found_version(connection) == one.revisions[-1] for one in sets)


def bring_up_to_date(connection: Connection, sets: Sequence[Tables]) -> None:
    """Make or migrate the tables; the caller keeps others from doing the same.

    Raises:
        SchemaError: newer code has been here, or another service.

    """
    unversioned = all(one.found_version(connection) is None for one in sets)
    old = unversioned and connection.dialect.has_table(connection, log_head.name)
    for one in sets:
        found = one.found_version(connection)
        if found is None and old:
            found = _FIRST
            _write_version(connection, one, found)
        if found is None:
            if not unversioned:
                raise SchemaError(
                    f"this database has the event store of another service than {one.name}; give "
                    "each service a database of its own (on PostgreSQL one is enough for all)"
                )
            one.metadata.create_all(connection)
            _write_version(connection, one, one.revisions[-1])
        elif found not in one.revisions:
            raise SchemaError(
                f"the {one.name} tables of this database are at revision {found}, and this version "
                f"of Engineshed knows them up to {one.revisions[-1]}: upgrade it to the one that "
                "the database was used with last, or to a later one"
            )
        elif found != one.revisions[-1]:
            _migrate(connection, one)
            _log.info("migrated", tables=one.name, before=found, now=one.revisions[-1])


def _write_version(connection: Connection, tables: Tables, revision: str) -> None:
    tables.version.create(connection)
    connection.execute(insert(tables.version), {"version_num": revision})


def _migrate(connection: Connection, tables: Tables) -> None:
    from alembic.command import upgrade
    from alembic.config import Config

    logging.getLogger("alembic").setLevel(logging.WARNING)
    config = Config()
    config.set_main_option("script_location", str(_HERE).replace("%", "%%"))
    config.set_main_option("version_locations", str(tables.migrations).replace("%", "%%"))
    config.set_main_option("path_separator", "newline")
    config.attributes.update(connection=connection, version_table=tables.version.name)
    upgrade(config, "head")
