"""A gateway's process with a real broker wakes endpoints and lets requests through to them."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic

import aiohttp
import grpc
import pytest
from tests.service.bus.conftest import Broker, a_free_port, eventually
from tests.service.gateway.fake_replica import SECRET, FakeReplica
from tests.service.scheduler import fake_catalog

from engineshed.api.catalog.v1.token_service_pb2 import TokenGrant
from engineshed.api.scheduler.v1.endpoint_service_pb2 import (
    WakeEndpointRequest,
    WakeEndpointResponse,
)
from engineshed.api.scheduler.v1.endpoint_service_pb2_grpc import (
    EndpointServiceServicer,
    add_EndpointServiceServicer_to_server,
)
from engineshed.api.scheduler.v1.route_pb2 import Route
from engineshed.auth import hash_token
from engineshed.bus import ROUTES, TOKENS, Bus, BusUnavailableError, KeyValueOwner
from engineshed.bus.kv import Bucket, M

ENDPOINT = "ep_01HZZZZZZZZZZZZZZZZZZZZZZZ"
KEY = "bot-a1b2c3"
OTHER = "bot-d4e5f6"
TOKEN = "es_mine"


class Scheduler(EndpointServiceServicer):
    """Takes calls over gRPC; not healthy, not anything but that."""

    def __init__(self) -> None:
        self.woken: list[tuple[str, str]] = []
        self.server = grpc.aio.server()
        add_EndpointServiceServicer_to_server(self, self.server)
        self.port = self.server.add_insecure_port("127.0.0.1:0")

    async def WakeEndpoint(
        self, request: WakeEndpointRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> WakeEndpointResponse:
        metadata = dict(context.invocation_metadata() or ())
        assert metadata["x-request-id"]
        self.woken.append((request.endpoint_id, str(metadata["authorization"])))
        return WakeEndpointResponse()


class Owned(Generic[M]):
    """A bucket, kept as its owner keeps it."""

    def __init__(self, bus: Bus, bucket: Bucket[M]) -> None:
        self._entries: dict[str, M] = {}
        self.owner = KeyValueOwner(bus, bucket, self._all)

    async def _all(self) -> Mapping[str, M]:
        return self._entries

    async def put(self, key: str, entry: M) -> None:
        self._entries[key] = entry
        await eventually(lambda: self._is_put(key, entry))

    async def _is_put(self, key: str, entry: M) -> bool:
        try:
            await self.owner.put(key, entry)
        except BusUnavailableError:  # the owner has not made the bucket yet
            return False
        return True


@dataclass
class World:
    """The gateway's process and all that it talks to."""

    url: str
    client: aiohttp.ClientSession
    broker: Broker
    scheduler: Scheduler
    catalog: fake_catalog.FakeCatalog
    routes: Owned[Route]
    tokens: Owned[TokenGrant]
    process: "subprocess.Popen[bytes]"
    generation: int = 0

    async def route(
        self,
        status: str,
        replica: FakeReplica | None = None,
        *,
        key: str = KEY,
        wake_seconds: int = 60,
    ) -> None:
        self.generation += 1
        route = Route(
            routing_key=key,
            endpoint_id=ENDPOINT,
            org_id="org_1",
            region="local",
            status=status,
            term=1,
            generation=self.generation,
        )
        route.wake_timeout.FromSeconds(wake_seconds)
        if replica:
            url = f"http://127.0.0.1:{replica.port}"
            route.replicas.add(replica_id="rep_1", url=url, secret=SECRET)
        await self.routes.put(key, route)

    async def grant(self, **fields: object) -> None:
        self.generation += 1
        grant = TokenGrant(
            token_id="tok_1",
            org_id="org_1",
            scopes=["inference"],
            term=1,
            generation=self.generation,
            **fields,  # type: ignore[arg-type]  # those of TokenGrant
        )
        self.catalog.grants[hash_token(TOKEN)] = grant
        await self.tokens.put(hash_token(TOKEN), grant)

    async def ask(self, key: str = KEY) -> tuple[int, Any]:
        headers = {"authorization": f"Bearer {TOKEN}"}
        url = f"{self.url}/v1/chat/completions"
        async with self.client.post(url, json={"model": key}, headers=headers) as answer:
            return answer.status, await answer.json()

    async def models(self) -> list[str]:
        headers = {"authorization": f"Bearer {TOKEN}"}
        try:
            async with self.client.get(f"{self.url}/v1/models", headers=headers) as answer:
                body = await answer.json()
        except aiohttp.ClientConnectionError:
            return []
        return [item["id"] for item in body.get("data", [])]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        broker, catalog = Broker(tmp_path), fake_catalog.FakeCatalog()
        scheduler = Scheduler()  # type: ignore[abstract]  # the gateway calls no more of it
        stack.callback(broker.kill)
        stack.callback(catalog.stop)
        stack.push_async_callback(scheduler.server.stop, None)
        await broker.start()
        await scheduler.server.start()
        buses = [await Bus.connect(broker.urls[one], name=one) for one in ("scheduler", "catalog")]
        for bus in buses:
            stack.push_async_callback(bus.close)
        routes, tokens = Owned(buses[0], ROUTES), Owned(buses[1], TOKENS)
        for keeping in (routes.owner.run(), tokens.owner.run()):
            stack.callback(asyncio.create_task(keeping).cancel)
        port = a_free_port()
        process = stack.enter_context(_gateway(tmp_path, broker, scheduler, catalog, port))
        stack.callback(process.terminate)
        client = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(20))
        await stack.enter_async_context(client)
        url = f"http://127.0.0.1:{port}"
        world = World(url, client, broker, scheduler, catalog, routes, tokens, process)
        await world.grant()
        await world.route("idle")
        await eventually(lambda: _serves(world, KEY))
        yield world


def _gateway(
    folder: Path, broker: Broker, scheduler: Scheduler, catalog: fake_catalog.FakeCatalog, port: int
) -> "subprocess.Popen[bytes]":
    (folder / "services.json").write_text("{}")
    (folder / "service.token").write_text(fake_catalog.TOKEN)
    environment = {
        **os.environ,
        "ENGINESHED_STATE_DIR": str(folder),
        "ENGINESHED_NATS_URL": broker.urls["gateway"],
        "ENGINESHED_CATALOG_ADDRESS": catalog.address,
        "ENGINESHED_SCHEDULER_ADDRESS": f"127.0.0.1:{scheduler.port}",
        "ENGINESHED_SERVICE_TOKEN_FILE": str(folder / "service.token"),
        "ENGINESHED_SERVICES_FILE": str(folder / "services.json"),
        "ENGINESHED_HTTP_PORT": str(port),
        "ENGINESHED_PUBLIC_HOST": f"localhost:{port}",
    }
    with (folder / "gateway.log").open("wb") as log:
        argv = [sys.executable, "-m", "engineshed.gateway"]
        return subprocess.Popen(argv, env=environment, stdout=log, stderr=log)


async def _serves(world: World, *keys: str) -> bool:
    return await world.models() == list(keys)


@pytest.fixture
async def replica() -> AsyncIterator[FakeReplica]:
    started = await FakeReplica().start()
    yield started
    await started.stop()


async def test_an_idle_endpoint_is_woken_in_its_callers_name_and_answers_once_it_is_routed(
    world: World, replica: FakeReplica
) -> None:
    asking = asyncio.create_task(world.ask())
    await eventually(lambda: world.scheduler.woken)
    assert not asking.done()

    await world.route("provisioning")
    await world.route("running", replica)

    status, body = await asking
    assert (status, body["from"]) == (200, replica.port)
    assert set(world.scheduler.woken) == {(ENDPOINT, f"Bearer {TOKEN}")}


async def test_a_token_that_is_revoked_while_its_request_is_held_ends_it(world: World) -> None:
    asking = asyncio.create_task(world.ask())
    await eventually(lambda: world.scheduler.woken)

    await world.grant(tombstone=True)

    status, body = await asking
    assert (status, body["error"]["code"]) == (401, "invalid_api_key")


async def test_with_scheduler_and_broker_down_a_request_is_given_up_and_no_worse(
    world: World,
) -> None:
    await world.route("idle", key=OTHER, wake_seconds=1)
    await eventually(lambda: _serves(world, KEY, OTHER))
    await world.scheduler.server.stop(None)
    world.broker.kill()

    status, body = await world.ask(OTHER)

    assert (status, body["error"]["code"]) == (503, "endpoint_waking")


async def test_a_gateway_that_is_stopped_answers_what_it_holds(world: World) -> None:
    asking = asyncio.create_task(world.ask())
    await eventually(lambda: world.scheduler.woken)

    world.process.terminate()

    status, body = await asking
    assert (status, body["error"]["code"]) == (503, "endpoint_waking")
