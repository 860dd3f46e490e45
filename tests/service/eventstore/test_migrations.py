"""Databases of older versions are brought up to date; those of newer ones are left alone."""

import asyncio
from runpy import run_path
from typing import Any

import pytest
from alembic.autogenerate import produce_migrations, render_python_code
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, inspect, text

from engineshed.catalog import tables as catalog
from engineshed.eventstore import EventStore, Idempotency, SchemaError, Tables
from engineshed.eventstore.database import Database
from engineshed.eventstore.migrating import LOG_TABLES, is_current
from engineshed.eventstore.opening import open_database
from engineshed.scheduler import tables as scheduler

SETS = [LOG_TABLES, catalog.TABLES, scheduler.TABLES]


def is_not_a_version(name: str | None, kind: str, _: object) -> bool:
    return kind != "table" or not str(name).endswith("_version")


@pytest.fixture
def database(database_url: str) -> Database:
    return open_database(database_url, "test")


def make_version_0_1_0(database: Database, tables: Tables) -> None:
    """Make what version 0.1.0 did: its tables, and none for their version."""
    with database.write() as connection:
        database.claim(connection)
        with Operations.context(MigrationContext.configure(connection)):
            for one in (LOG_TABLES, tables):
                run_path(str(one.migrations / "r0001_version_0_1_0.py"))["upgrade"]()
        connection.execute(text("INSERT INTO log_head VALUES (1, 7, 7)"))
        connection.execute(
            text(
                "INSERT INTO requests (org_id, actor, method, request_id, request_hash, response, "
                "recorded_at) VALUES ('org_1', 'tok_1', 'm', 'r1', :hash, :answer, 7)"
            ),
            {"hash": b"h" * 32, "answer": b"an answer"},
        )


@pytest.mark.parametrize("tables", [catalog.TABLES, scheduler.TABLES], ids=lambda one: one.name)
async def test_tables_of_version_0_1_0_become_those_that_the_code_wants(
    database: Database, database_url: str, tables: Tables
) -> None:
    make_version_0_1_0(database, tables)

    store = await EventStore.open(database_url, service="test", tables=tables)
    assert await store.last_position() == 7

    def missing(connection: Connection) -> str:
        # What it compares with is what is there when a connection begins.
        connection.dialect.default_schema_name = "test" if "postgres" in database_url else None
        wanted: Any = [LOG_TABLES.metadata, tables.metadata]
        options = {"target_metadata": wanted, "include_name": is_not_a_version}
        context = MigrationContext.configure(connection, opts=options)
        operations = produce_migrations(context, wanted).upgrade_ops
        assert operations is not None
        return "" if operations.is_empty() else str(render_python_code(operations))

    def keys(connection: Connection) -> dict[str, list[str]]:
        there = inspect(connection)
        names = [table.name for table in metadata.sorted_tables]
        return {name: there.get_pk_constraint(name)["constrained_columns"] for name in names}

    assert await store.query(missing) == "", "write a migration that does this"
    for metadata in (LOG_TABLES.metadata, tables.metadata):  # keys are not compared above
        assert await store.query(keys) == {
            table.name: [column.name for column in table.primary_key]
            for table in metadata.sorted_tables
        }
    request = Idempotency("org_1", "tok_1", "m", "r1", b"h" * 32)
    assert await store.recall(request) == b"an answer"
    await store.close()


async def test_a_database_that_newer_code_has_used_is_refused(
    database_url: str, database: Database
) -> None:
    await (await EventStore.open(database_url, service="test")).close()
    with database.write() as connection:
        connection.execute(text("UPDATE log_version SET version_num = '9999'"))

    with pytest.raises(SchemaError, match=r"revision 9999, .* up to 0003: upgrade"):
        await EventStore.open(database_url, service="test")


async def test_a_database_of_another_service_is_refused(database_url: str) -> None:
    store = await EventStore.open(database_url, service="test", tables=catalog.TABLES)
    await store.close()

    with pytest.raises(SchemaError, match="another service than scheduler"):
        await EventStore.open(database_url, service="test", tables=scheduler.TABLES)


async def test_processes_that_migrate_at_once_do_it_once(
    database: Database, database_url: str
) -> None:
    make_version_0_1_0(database, catalog.TABLES)

    stores = await asyncio.gather(
        *(EventStore.open(database_url, service="test", tables=catalog.TABLES) for _ in range(4))
    )

    for store in stores:
        assert await store.last_position() == 7
        await store.close()
    assert database.read(lambda connection: is_current(connection, [LOG_TABLES, catalog.TABLES]))


@pytest.mark.parametrize("tables", SETS, ids=lambda one: one.name)
def test_migrations_are_numbered_without_a_gap(tables: Tables) -> None:
    assert tables.revisions == [f"{number:04}" for number in range(1, len(tables.revisions) + 1)]
