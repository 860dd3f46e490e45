"""The databases that services run on."""

from collections.abc import Iterator

import pytest
from tests.service.eventstore.servers import PostgresServer


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    with PostgresServer() as server:
        yield server


@pytest.fixture
def database_settings(request: pytest.FixtureRequest) -> dict[str, str]:
    """What names the database to a service; a file, unless the test is `ON_EACH_DATABASE`."""
    match getattr(request, "param", "sqlite"):
        case "sqlite":
            return {}
        case "postgresql":
            server: PostgresServer = request.getfixturevalue("postgres_server")
            return {"ENGINESHED_DATABASE_URL": server.new_database()}
        case other:
            raise ValueError(other)
