"""Gateways and replicas that end with the test."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import aiohttp
import httpx
import pytest
import uvicorn
from tests.service.gateway import rest
from tests.service.gateway.fake_replica import FakeReplica
from tests.service.gateway.idle import Callers, Gateway, Scheduler, Start, eventually
from tests.service.gateway.planes import data_plane

from engineshed.api.scheduler.v1.route_pb2 import Route
from engineshed.gateway.dataplane.balancer import Balancer
from engineshed.gateway.dataplane.forward import Forwarder
from engineshed.gateway.dataplane.fronts import Fronts
from engineshed.gateway.dataplane.waking import Limits
from engineshed.gateway.metrics import GatewayMetrics
from engineshed.gateway.news import News


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Start gateways that end with the test."""
    ends: list[Callable[[], Awaitable[object]]] = []

    async def start(limits: Limits | None = None) -> Gateway:
        routes: dict[str, Route] = {}
        metrics, news, fronts = GatewayMetrics(), News(), Fronts()
        callers, scheduler = Callers(), Scheduler()
        scheduler.go_on.set()
        plane = data_plane(
            routes,
            callers,
            Forwarder(fronts, Balancer()),
            metrics,
            wake=scheduler.wake,
            news=news,
            limits=limits,
        )
        config = uvicorn.Config(plane, port=0, lifespan="off", log_config=None, access_log=False)
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server._serve())
        await eventually(lambda: server.started)
        port = server.servers[0].sockets[0].getsockname()[1]
        client = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(20))

        async def end() -> None:
            await client.close()
            server.should_exit = True
            await serving
            fronts.close()

        ends.append(end)
        url = f"http://127.0.0.1:{port}"
        return Gateway(url, client, metrics, routes, news, callers, scheduler)

    yield start
    for end in ends:
        await end()


@pytest.fixture
async def gateway(start: Start) -> Gateway:
    return await start()


@pytest.fixture
async def replicas() -> AsyncIterator[list[FakeReplica]]:
    started = [await FakeReplica().start() for _ in range(2)]
    yield started
    for replica in started:
        await replica.stop()


@pytest.fixture
def scheduler() -> rest.Scheduler:
    return rest.Scheduler()


@pytest.fixture
def routes() -> rest.Routes:
    return rest.Routes()


@pytest.fixture
async def client(
    scheduler: rest.Scheduler, routes: rest.Routes
) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(rest.application(scheduler, routes))
    headers = {"authorization": "Bearer es_mine"}
    async with httpx.AsyncClient(
        transport=transport, base_url="http://gateway", headers=headers
    ) as client:
        yield client
