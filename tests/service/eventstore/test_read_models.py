"""Read models of a service change with its events, in the same transaction."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from sqlalchemy import Column, Connection, MetaData, String, Table, func, insert, select
from sqlalchemy.exc import DBAPIError, IntegrityError

from engineshed.eventstore import EventStore, Metadata, RecordedEvent, StreamAppend, Tables

OpenStore = Callable[..., Awaitable[EventStore]]
ME = Metadata("tok_1", "org_1")

MODELS = MetaData()
names = Table(
    "names", MODELS, Column("stream", String, primary_key=True), Column("name", String, unique=True)
)


class BugError(Exception):
    """What a read model with a bug raises."""


def project(connection: Connection, events: Sequence[RecordedEvent]) -> None:
    for recorded in events:
        assert isinstance(recorded.event, StringValue)
        name = recorded.event.value
        connection.execute(insert(names), {"stream": recorded.stream, "name": name})
        if name == "bug":
            raise BugError
        if name == "bad_sql":
            connection.exec_driver_sql("INSERT INTO no_such_table VALUES (1)")


def named(name: str) -> StreamAppend:
    return StreamAppend(f"a/{name}", 0, [StringValue(value=name)], ME)


def all_names(connection: Connection) -> list[str]:
    return list(connection.scalars(select(names.c.name).order_by(names.c.name)))


@pytest.fixture
async def store(open_store: OpenStore, tmp_path: Path) -> EventStore:
    (tmp_path / "r0001_names.py").touch()
    return await open_store(tables=Tables("models", MODELS, tmp_path), project=project)


async def test_a_service_reads_its_own_writes(store: EventStore) -> None:
    await store.append(named("one"), named("two"))

    assert await store.query(all_names) == ["one", "two"]


async def test_more_rows_of_the_caller_are_written_along(store: EventStore) -> None:
    def write(connection: Connection) -> None:
        assert all_names(connection) == ["one"]  # the read models come first
        connection.execute(insert(names), {"stream": "none", "name": "extra"})

    await store.append(named("one"), write=write)

    assert await store.query(all_names) == ["extra", "one"]


async def test_rows_can_be_written_without_an_event(store: EventStore) -> None:
    def write(connection: Connection) -> None:
        connection.execute(insert(names), {"stream": "none", "name": "extra"})

    assert await store.append(write=write) == []

    assert await store.query(all_names) == ["extra"]
    assert await store.last_position() == 0


@pytest.mark.parametrize(
    ("name", "error"), [("bug", BugError), ("bad_sql", DBAPIError), ("taken", IntegrityError)]
)
async def test_an_error_in_a_read_model_undoes_its_append_alone(
    store: EventStore, name: str, error: type[Exception]
) -> None:
    def take(connection: Connection) -> None:
        connection.execute(insert(names), {"stream": "another", "name": "taken"})

    await store.append(write=take)

    outcomes = await asyncio.gather(
        *(store.append(named(each)) for each in ["one", "two", name, "three", "four"]),
        return_exceptions=True,
    )

    assert isinstance(outcomes[2], error)
    assert [type(outcome) for outcome in outcomes[:2] + outcomes[3:]] == [list] * 4
    assert await store.query(all_names) == ["four", "one", "taken", "three", "two"]
    events = await store.read(0)
    assert [event.stream for event in events] == ["a/one", "a/two", "a/three", "a/four"]
    assert [event.position for event in events] == [1, 2, 3, 4]


async def test_an_error_in_the_callers_rows_undoes_its_append_alone(store: EventStore) -> None:
    def fail(connection: Connection) -> None:
        connection.execute(insert(names), {"stream": "none", "name": "extra"})
        raise BugError

    outcomes = await asyncio.gather(
        store.append(named("one")),
        store.append(named("two"), write=fail),
        store.append(named("three")),
        return_exceptions=True,
    )

    assert [type(outcome) for outcome in outcomes] == [list, BugError, list]
    assert await store.query(all_names) == ["one", "three"]


async def test_a_query_sees_one_snapshot(store: EventStore, open_store: OpenStore) -> None:
    loop = asyncio.get_running_loop()

    def count_twice(connection: Connection) -> list[int | None]:
        counts = [connection.scalar(select(func.count()).select_from(names))]
        asyncio.run_coroutine_threadsafe(store.append(named("late")), loop).result(10)
        counts.append(connection.scalar(select(func.count()).select_from(names)))
        return counts

    await store.append(named("one"))

    assert await store.query(count_twice) == [1, 1]
    assert await store.query(all_names) == ["late", "one"]
