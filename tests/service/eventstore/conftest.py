"""The contract of an event store runs once for each database; add a kind to `database_url`."""

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from tests.service.eventstore.servers import PostgresServer

from engineshed.eventstore import EventStore


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database, for this test alone."""
    match request.param:
        case "sqlite":
            return f"sqlite:///{tmp_path}/store.db"
        case "postgresql":
            server: PostgresServer = request.getfixturevalue("postgres_server")
            return server.new_database()
        case other:
            raise ValueError(other)


OpenStore = Callable[..., Awaitable[EventStore]]


@pytest.fixture
async def open_store(database_url: str) -> AsyncIterator[OpenStore]:
    """Opens stores on the test's database and closes them at the end."""
    opened: list[EventStore] = []

    async def open_store(**options: object) -> EventStore:
        store = await EventStore.open(database_url, service="test", **options)  # type: ignore[arg-type]  # the caller's, passed on
        opened.append(store)
        return store

    yield open_store
    for store in opened:
        await store.close()


@pytest.fixture
async def store(open_store: OpenStore) -> EventStore:
    return await open_store()
