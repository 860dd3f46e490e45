"""Reading a service's log over gRPC: all of it, some of it, and never another organization's."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from google.protobuf.wrappers_pb2 import Int64Value, StringValue

from engineshed import ids
from engineshed.api.events.v1 import event_service_pb2 as pb
from engineshed.api.events.v1.event_service_pb2_grpc import (
    EventServiceStub,
    add_EventServiceServicer_to_server,
)
from engineshed.auth import Principal, UnauthenticatedError, directory
from engineshed.eventstore import EventStore, Metadata, StreamAppend
from engineshed.eventstore.servicer import EventServicer
from engineshed.rpc import Access, RpcServer, open_channel

METHOD = "/engineshed.api.events.v1.EventService/ReadEvents"
CALLERS = {
    "mine": Principal("tok_1", "org_1", frozenset({"endpoints:read"})),
    "operator": Principal("tok_2", "org_2", frozenset({"endpoints:read", "operator"})),
    "service": Principal("ledger", ids.PLATFORM, frozenset(), is_service=True),
}
DEADLINE_S = 10


class Callers:
    """Knows the tokens of this test."""

    async def authenticate(self, secret: str) -> Principal:
        if secret not in CALLERS:
            raise UnauthenticatedError("unknown")
        return CALLERS[secret]


class Client:
    def __init__(self, address: str) -> None:
        self._address = address

    async def stream(self, caller: str, **request: Any) -> AsyncGenerator[pb.Event]:
        async with open_channel(self._address, caller, "test") as channel:
            stub: Any = EventServiceStub(channel)
            call = stub.ReadEvents(pb.ReadEventsRequest(**request), timeout=DEADLINE_S)
            async for response in call:
                yield response.event

    async def read(self, caller: str, **request: Any) -> list[pb.Event]:
        return [event async for event in self.stream(caller, **request)]

    async def positions(self, caller: str, **request: Any) -> list[int]:
        return [event.position for event in await self.read(caller, **request)]


def to(stream: str, version: int, *events: Message, org: str = "org_1") -> StreamAppend:
    me = Metadata("tok_1", org, "req_1", "00-aa-bb-01", "evt_cause")
    return StreamAppend(stream, version, events or [StringValue(value="x")], me)


@pytest.fixture
async def client(store: EventStore) -> AsyncIterator[Client]:
    """A client of a log with 1, 3, 5 of org_1 and 2, 4 of org_2."""
    await store.append(to("endpoint/ep_1", 0))
    await store.append(to("endpoint/ep_2", 0, org="org_2"))
    await store.append(to("endpoint/ep_1", 1, Int64Value(value=1)))
    await store.append(to("endpoint/ep_2", 1, Int64Value(value=2), org="org_2"))
    await store.append(to("endpoint/ep_3", 0))
    access = {METHOD: Access("endpoints:read", frozenset({"ledger"}))}
    server = RpcServer("127.0.0.1:0", Callers(), access)
    server.add(add_EventServiceServicer_to_server, EventServicer(store))
    yield Client(await server.start())
    await server.stop(0)


async def test_an_event_arrives_with_its_envelope(client: Client, store: EventStore) -> None:
    (recorded,) = await store.read(2, 1)

    (event,) = await client.read("mine", after_position=2, limit=1)

    fact = Int64Value()
    assert event.data.Unpack(fact)
    assert fact.value == 1
    assert event.event_id == recorded.event_id
    assert event.recorded_at.ToDatetime(tzinfo=recorded.recorded_at.tzinfo) == recorded.recorded_at
    assert (event.position, event.stream, event.version) == (3, "endpoint/ep_1", 2)
    assert (event.org_id, event.actor, event.request_id) == ("org_1", "tok_1", "req_1")
    assert (event.causation_id, event.traceparent) == ("evt_cause", "00-aa-bb-01")


async def test_events_are_selected_by_the_request(client: Client) -> None:
    number = "google.protobuf.Int64Value"

    assert await client.positions("operator") == [1, 2, 3, 4, 5]
    assert await client.positions("operator", after_position=3) == [4, 5]
    assert await client.positions("operator", after_position=2**64 - 1) == []
    assert await client.positions("operator", limit=2) == [1, 2]
    assert await client.positions("operator", org_id="org_1") == [1, 3, 5]
    assert await client.positions("operator", stream="endpoint/ep_1", types=[number]) == [3]


async def test_a_long_log_is_read_to_its_end(client: Client, store: EventStore) -> None:
    await store.append(to("endpoint/ep_4", 0, *[StringValue(value="x")] * 1200))

    assert await client.positions("mine") == [1, 3, 5, *range(6, 1206)]


async def test_a_caller_sees_its_own_organization_alone(client: Client) -> None:
    assert await client.positions("mine") == [1, 3, 5]
    assert await client.positions("mine", org_id="org_1") == [1, 3, 5]
    assert await client.positions("mine", stream="endpoint/ep_2") == []


@pytest.mark.parametrize("org_id", ["org_2", "org_none", ids.PLATFORM])
async def test_another_organization_is_forbidden_whether_it_exists_or_not(
    client: Client, org_id: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await client.read("mine", org_id=org_id)

    assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED


@pytest.mark.parametrize("caller", ["operator", "service"])
async def test_operators_and_services_may_name_any_organization(
    client: Client, caller: str
) -> None:
    assert await client.positions(caller, org_id="org_1") == [1, 3, 5]
    assert await client.positions(caller) == [1, 2, 3, 4, 5]


async def test_following_goes_on_with_what_comes(client: Client, store: EventStore) -> None:
    seen = []
    async for event in client.stream("mine", after_position=1, follow=True, limit=4):
        seen.append(event.position)
        if len(seen) == 2:  # all that was there
            await store.append(to("endpoint/ep_2", 2, org="org_2"))
            await store.append(to("endpoint/ep_1", 2))
            await store.append(to("endpoint/ep_1", 3))

    assert seen == [3, 5, 7, 8]


async def test_a_follower_whose_token_is_revoked_gets_nothing_more(
    client: Client, store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(directory, "RECHECK_SECONDS", 0.0)
    monkeypatch.setitem(CALLERS, "revoked", CALLERS["mine"])
    async with aclosing(client.stream("revoked", after_position=3, follow=True)) as following:
        assert (await anext(following)).position == 5
        monkeypatch.delitem(CALLERS, "revoked")
        await store.append(to("endpoint/ep_1", 2))

        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await anext(following)

    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_a_follower_that_goes_away_leaves_nothing_behind(
    client: Client, store: EventStore
) -> None:
    await client.read("mine")  # the server has what tasks it keeps for itself
    before = len(asyncio.all_tasks())
    async with aclosing(client.stream("mine", follow=True)) as following:
        await anext(following)
        assert len(asyncio.all_tasks()) > before

    async with asyncio.timeout(DEADLINE_S):
        while len(asyncio.all_tasks()) > before:
            await asyncio.sleep(0.01)
