"""What only a store on a PostgreSQL server has to hold: connections that break, limits, URLs."""

import traceback
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import psycopg
import pytest
from google.protobuf.wrappers_pb2 import StringValue
from sqlalchemy import Connection, event, text
from sqlalchemy.exc import OperationalError
from tests.service.eventstore.servers import PostgresServer

from engineshed.eventstore import EventStore, Metadata, StoreUnavailableError, StreamAppend

OpenStore = Callable[..., Awaitable[EventStore]]


def to(stream: str) -> StreamAppend:
    return StreamAppend(stream, 0, [StringValue(value="x")], Metadata("tok_1", "org_1"))


@pytest.fixture
def database_url(postgres_server: PostgresServer) -> str:
    return postgres_server.new_database()


@contextmanager
def broken_commit(store: EventStore, end: str) -> Iterator[None]:
    """Let the next transaction end on the server, and the connection break before that is told."""

    def break_off(connection: Connection) -> None:
        event.remove(store._database.writer, "commit", break_off)
        connection.exec_driver_sql(end)
        cause = psycopg.OperationalError("the connection is lost")
        raise OperationalError("COMMIT", None, cause, connection_invalidated=True)

    event.listen(store._database.writer, "commit", break_off)
    yield


async def test_a_commit_whose_answer_was_lost_counts(store: EventStore) -> None:
    with broken_commit(store, "COMMIT"):
        recorded = await store.append(to("a/1"))

    assert await store.load("a/1") == recorded


async def test_a_commit_that_never_happened_does_not_count(store: EventStore) -> None:
    with broken_commit(store, "ROLLBACK"), pytest.raises(StoreUnavailableError):
        await store.append(to("a/1"))

    assert await store.load("a/1") == []
    assert (await store.append(to("a/1")))[0].position == 1


async def test_connections_that_were_cut_while_idle_are_not_noticed(store: EventStore) -> None:
    await store.append(to("a/1"))
    cut = text(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )

    def cut_others(connection: Connection) -> None:
        connection.execute(cut)

    await store.query(cut_others)

    assert len(await store.append(to("a/2"))) == 1
    await store.append(write=cut_others)
    assert len(await store.load("a/2")) == 1


async def test_an_acknowledged_append_is_durable_whatever_the_servers_default(
    postgres_server: PostgresServer,
) -> None:
    url = postgres_server.new_database()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE {connection.info.dbname} SET synchronous_commit = off")
    store = await EventStore.open(url, service="test")
    found: list[object] = []

    def look(connection: Connection) -> None:
        found.append(connection.scalar(text("SHOW synchronous_commit")))

    await store.append(write=look)
    await store.close()

    assert found == ["on"]


async def test_each_service_has_a_schema_of_its_own(database_url: str) -> None:
    stores = [await EventStore.open(database_url, service=one) for one in ("catalog", "scheduler")]

    await stores[0].append(to("a/1"))

    assert [await store.last_position() for store in stores] == [1, 0]
    for store in stores:
        await store.close()


@pytest.mark.parametrize("url", ["postgresql://me:s3cr%zzet@host/db", "postgres://h:s3cr/et@x/y"])
async def test_a_url_that_cannot_be_read_does_not_show_its_password(url: str) -> None:
    with pytest.raises(ValueError, match="ENGINESHED_DATABASE_URL") as refused:
        await EventStore.open(url, service="test")

    assert "s3cr" not in "".join(traceback.format_exception(refused.value))
