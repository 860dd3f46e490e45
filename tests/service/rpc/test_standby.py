"""Several servers of one kind, of which one works and the others stand by."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from engineshed.api.catalog.v1 import hold_service_pb2 as pb
from engineshed.api.catalog.v1.hold_service_pb2_grpc import (
    HoldServiceStub,
    add_HoldServiceServicer_to_server,
)
from engineshed.errors import DomainError, Kind
from engineshed.rpc import Access, RpcServer, error_from, open_channel

from .conftest import LIST, METHODS, Callers, Holds, call, refused

SERVICE = "engineshed.api.catalog.v1.HoldService"
DEADLINE_S = 10


class StandbyError(DomainError):
    kind = Kind.UNAVAILABLE
    reason = "STANDBY"


class Member:
    """One of the servers."""

    def __init__(self) -> None:
        self.works = False
        self.holds = Holds()
        access = {METHODS + "ListHolds": Access("artifacts:read")}
        self.server = RpcServer("127.0.0.1:0", Callers(), access, self._refusal)
        self.address = ""

    def _refusal(self) -> DomainError | None:
        return None if self.works else StandbyError("this server stands by")

    async def take_over(self) -> None:
        self.works = True
        self.server.add(add_HoldServiceServicer_to_server, self.holds)
        await self.server.take_over()


@pytest.fixture
async def start() -> AsyncIterator[Callable[[], Awaitable[Member]]]:
    members: list[Member] = []

    async def start() -> Member:
        member = Member()
        member.address = await member.server.start(standby=True)
        members.append(member)
        return member

    yield start
    for member in members:
        await member.server.stop(0)


async def health(address: str, service: str) -> int:
    async with grpc.aio.insecure_channel(address) as channel:
        answer = await HealthStub(channel).Check(HealthCheckRequest(service=service))
        return int(answer.status)


async def test_a_standby_is_healthy_but_its_services_are_not(start) -> None:
    member = await start()

    assert await health(member.address, "") == HealthCheckResponse.SERVING
    assert await health(member.address, SERVICE) == HealthCheckResponse.NOT_SERVING
    await member.take_over()
    assert await health(member.address, SERVICE) == HealthCheckResponse.SERVING


async def test_a_standby_refuses_every_call_and_says_why(start) -> None:
    member = await start()

    for token in ("es_reader", None):
        error = error_from(await refused(call(member.address, token, "ListHolds", LIST)))
        assert error is not None
        assert (error.kind, error.reason) == (Kind.UNAVAILABLE, "STANDBY")


async def test_who_watches_a_standby_hears_that_it_takes_over_though_others_have_left(
    start,
) -> None:
    member = await start()
    request = HealthCheckRequest(service=SERVICE)
    async with (
        asyncio.timeout(DEADLINE_S),
        grpc.aio.insecure_channel(member.address) as channel,
    ):
        stays = HealthStub(channel).Watch(request)
        assert (await stays.read()).status == HealthCheckResponse.NOT_SERVING
        async with grpc.aio.insecure_channel(member.address) as other:
            leaves = HealthStub(other).Watch(request)
            assert (await leaves.read()).status == HealthCheckResponse.NOT_SERVING
            leaves.cancel()
            await HealthStub(other).Check(request)  # it knows of the end before it answers
        await member.take_over()

        assert (await stays.read()).status == HealthCheckResponse.SERVING


async def test_a_standby_that_takes_over_serves_what_is_added_then(start) -> None:
    member = await start()
    await member.take_over()

    assert await call(member.address, "es_reader", "ListHolds", LIST) == pb.ListHoldsResponse()


async def test_a_standby_refuses_calls_until_it_has_what_serves_them(start) -> None:
    member = await start()
    member.works = True

    error = error_from(await refused(call(member.address, "es_reader", "ListHolds", LIST)))
    assert error is not None
    assert error.kind is Kind.UNAVAILABLE


async def test_calls_go_to_the_one_that_works(start) -> None:
    first, second = await start(), await start()
    await first.take_over()
    target = f"ipv4:{first.address},{second.address}"
    async with open_channel(target, "es_reader", "test", healthy=SERVICE) as channel:
        stub = HoldServiceStub(channel)
        for _ in range(10):
            await stub.ListHolds(LIST, wait_for_ready=True)

        await first.server.stop(0)
        await second.take_over()
        async with asyncio.timeout(DEADLINE_S):
            while not second.holds.calls:
                with suppress(grpc.aio.AioRpcError):  # one may be on its way to the first
                    await stub.ListHolds(LIST, wait_for_ready=True)

    assert len(first.holds.calls) == 10
