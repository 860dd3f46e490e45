"""What every server has beside its methods: health, reflection, and an end without lost calls."""

import asyncio

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest
from grpc_reflection.v1alpha.reflection_pb2_grpc import ServerReflectionStub

from engineshed.api.catalog.v1 import hold_service_pb2 as pb
from engineshed.rpc import RpcServer, client, open_channel

from .conftest import LIST, Holds, call, refused

SERVICE = "engineshed.api.catalog.v1.HoldService"
DEADLINE_S = 10


@pytest.mark.parametrize("service", ["", SERVICE])
async def test_anybody_may_ask_whether_the_server_and_each_service_are_there(
    served, service: str
) -> None:
    address, _ = served
    async with grpc.aio.insecure_channel(address) as channel:
        answer = await HealthStub(channel).Check(HealthCheckRequest(service=service))

    assert answer.status == HealthCheckResponse.SERVING


async def services_of(address: str, token: str | None) -> set[str]:
    async with open_channel(address, token, "test") as channel:
        calling = ServerReflectionStub(channel).ServerReflectionInfo(
            iter([ServerReflectionRequest(list_services="")]), timeout=DEADLINE_S
        )
        return {
            service.name
            async for answer in calling
            for service in answer.list_services_response.service
        }


async def test_whoever_has_a_token_sees_which_services_there_are(served) -> None:
    address, _ = served

    assert SERVICE in await services_of(address, "es_reader")
    error = await refused(services_of(address, None))
    assert error.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_a_server_that_stops_finishes_its_calls_and_takes_no_more(
    server: RpcServer, holds: Holds
) -> None:
    address = await server.start()
    holds.may_answer.clear()
    in_flight = asyncio.create_task(call(address, "es_reader", "ListHolds", LIST))
    async with asyncio.timeout(DEADLINE_S):
        while not holds.calls:
            await asyncio.sleep(0.01)

    stopping = asyncio.create_task(server.stop(DEADLINE_S))
    async with asyncio.timeout(DEADLINE_S):
        while await is_open(address):
            await asyncio.sleep(0.01)
    holds.may_answer.set()

    assert await in_flight == pb.ListHoldsResponse()
    await stopping


async def is_open(address: str) -> bool:
    try:
        _, writer = await asyncio.open_connection(*address.split(":"))
    except (ConnectionRefusedError, ConnectionResetError):  # it is just closing
        return False
    writer.close()
    return True


async def test_a_stream_ends_when_the_other_side_hangs(
    server: RpcServer, holds: Holds, monkeypatch: pytest.MonkeyPatch
) -> None:
    faster = [
        (name, value // 100 if "ping" in name or "keep" in name else value)
        for name, value in client._OPTIONS
    ]
    monkeypatch.setattr(client, "_OPTIONS", faster)
    hangs = asyncio.Event()
    proxy = await in_front_of(await server.start(), hangs)
    port = proxy.sockets[0].getsockname()[1]
    async with proxy, open_channel(f"127.0.0.1:{port}", "es_reader", "test") as channel:
        calling = ServerReflectionStub(channel).ServerReflectionInfo(timeout=DEADLINE_S)
        await calling.write(ServerReflectionRequest(list_services=""))
        await calling.read()
        hangs.set()

        with pytest.raises(grpc.aio.AioRpcError) as ended:
            await calling.read()

    assert ended.value.code() is grpc.StatusCode.UNAVAILABLE


async def in_front_of(address: str, hangs: asyncio.Event) -> asyncio.Server:
    """Pass on what comes and goes, until it `hangs`: open, but silent."""

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            if not hangs.is_set():
                writer.write(data)
        writer.close()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(*address.split(":"))
        await asyncio.gather(pass_on(reader, back), pass_on(there, writer))

    return await asyncio.start_server(connected, "127.0.0.1", 0)
