"""The catalog survives its database: kill -9 of the server, and a server that is not there yet."""

import asyncio
import signal
from collections.abc import Callable, Iterator

import grpc
import pytest
from tests.service.eventstore.servers import PostgresServer

from engineshed.api.catalog.v1.checkpoint_service_pb2 import Checkpoint
from engineshed.api.catalog.v1.token_service_pb2 import CreateTokenRequest, ListTokensRequest
from engineshed.api.events.v1.event_service_pb2 import ReadEventsRequest

from .conftest import Caller, Catalog, eventually, refused
from .models import write_model

CallAs = Callable[[Catalog, str], Caller]


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    """A server to kill."""
    with PostgresServer() as server:
        yield server


async def tokens(caller: Caller) -> set[str]:
    found = await caller.tokens.ListTokens(ListTokensRequest(page_size=1000))
    return {token.token_id for token in found.tokens}


async def test_what_was_acknowledged_outlives_a_kill_of_the_server_and_work_goes_on(
    server: PostgresServer, own_catalog: Callable[..., Catalog], call: CallAs
) -> None:
    catalog = own_catalog(ENGINESHED_DATABASE_URL=server.new_database())
    catalog.start_broker()
    catalog.start()
    caller = call(catalog, catalog.admin)
    following = caller.events.ReadEvents(ReadEventsRequest(follow=True))
    acknowledged: set[str] = set()

    async def create_tokens() -> None:
        while True:
            request = CreateTokenRequest(name="test", scopes=["inference"])
            answer = await caller.tokens.CreateToken(request, timeout=20)
            acknowledged.add(answer.token.token_id)

    creating = [asyncio.create_task(create_tokens()) for _ in range(8)]
    await eventually(lambda: len(acknowledged) > 50)
    server.kill()
    outcomes = await asyncio.gather(*creating, return_exceptions=True)

    for outcome in outcomes:
        assert isinstance(outcome, grpc.aio.AioRpcError)
        assert outcome.code() is grpc.StatusCode.UNAVAILABLE, outcome
    with refused("STORE_UNAVAILABLE"):
        await tokens(caller)
    source = write_model(catalog.imports / "later")
    with refused("STORE_UNAVAILABLE"):
        await caller.register(source)
    server.start()

    async def served() -> bool:
        try:
            return bool(await tokens(caller))
        except grpc.aio.AioRpcError:
            return False

    await eventually(served)
    assert acknowledged <= await tokens(caller)
    record = await caller.register(source)
    assert (await caller.settled(record.checkpoint_id)).state == Checkpoint.STATE_REGISTERED
    positions = []
    async for answer in following:  # begun before it all
        positions.append(answer.event.position)
        if answer.event.stream == f"checkpoint/{record.checkpoint_id}":
            break
    assert positions == list(range(1, len(positions) + 1))
    assert "a loop ended" not in catalog.log


async def test_it_waits_for_its_database_and_says_so(
    server: PostgresServer, own_catalog: Callable[..., Catalog], call: CallAs
) -> None:
    url = server.new_database()
    server.kill()
    catalog = own_catalog(ENGINESHED_DATABASE_URL=url)
    catalog.launch()
    await eventually(lambda: "no connection to its server" in catalog.log)
    server.start()
    catalog.wait_ready()
    assert len(await tokens(call(catalog, catalog.admin))) == 1


async def test_told_to_end_it_does_not_wait_for_its_database(
    own_catalog: Callable[..., Catalog],
) -> None:
    catalog = own_catalog(ENGINESHED_DATABASE_URL="postgresql://me:secret@127.0.0.1:1/catalog")
    catalog.launch()
    await eventually(lambda: "no connection to its server" in catalog.log)
    assert catalog.kill(number=signal.SIGTERM) == 0
    assert "secret" not in catalog.log
