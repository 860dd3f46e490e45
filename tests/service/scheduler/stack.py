"""A scheduler as a real process, with a real broker and database, and a catalog that is faked."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from inspect import isawaitable
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tests.ports import a_free_port
from tests.service.bus.conftest import Broker
from tests.service.scheduler import fake_catalog, scripted_agent

from engineshed import ids
from engineshed.api.catalog.v1.token_service_pb2 import TokenGrant
from engineshed.api.events.v1.event_service_pb2 import Event, ReadEventsRequest
from engineshed.api.events.v1.event_service_pb2_grpc import EventServiceStub
from engineshed.api.scheduler.v1 import endpoint_service_pb2 as pb
from engineshed.api.scheduler.v1.endpoint_service_pb2_grpc import EndpointServiceStub
from engineshed.api.scheduler.v1.node_service_pb2_grpc import NodeServiceStub
from engineshed.auth import hash_token
from engineshed.bus import TOKENS, Bus, KeyValueOwner, KeyValueWatcher
from engineshed.rpc import LEADER, open_channel

DEADLINE = 60.0


async def eventually(what: str, probe: Callable[[], object]) -> Any:
    """Return what `probe` finds, once it finds something; it may be a coroutine function."""
    try:
        async with asyncio.timeout(DEADLINE):
            while True:
                found = probe()
                result = await found if isawaitable(found) else found
                if result:
                    return result
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"waited in vain for {what}") from None


class Stack:
    """A scheduler that can be killed and started again."""

    def __init__(self, directory: Path, **settings: str) -> None:
        self.directory = directory
        self.catalog = fake_catalog.FakeCatalog()
        self.broker = Broker(directory)
        asyncio.run(self.broker.start())
        self.address = f"127.0.0.1:{a_free_port()}"
        self.target = self.address  # where its callers look for it; of several, for the leader
        self.process: subprocess.Popen[bytes] | None = None
        self.gateway_token = "svc_gateway_of-the-tests"
        hashes = {
            "scheduler": hash_token(fake_catalog.TOKEN),
            "agent": hash_token(scripted_agent.TOKEN),
            "gateway": hash_token(self.gateway_token),
        }
        (directory / "services.json").write_text(json.dumps(hashes))
        (directory / "scheduler.token").write_text(fake_catalog.TOKEN)
        (directory / "replica.key").write_text("the key of the tests")
        self.environment = {
            **os.environ,
            "ENGINESHED_STATE_DIR": str(directory),
            "ENGINESHED_LISTEN": self.address,
            "ENGINESHED_NATS_URL": self.broker.urls["scheduler"],
            "ENGINESHED_CATALOG_ADDRESS": self.catalog.address,
            "ENGINESHED_SERVICE_TOKEN_FILE": str(directory / "scheduler.token"),
            "ENGINESHED_SERVICES_FILE": str(directory / "services.json"),
            "ENGINESHED_REPLICA_KEY_FILE": str(directory / "replica.key"),
            **settings,
        }

    def start(self) -> None:
        with (self.directory / "scheduler.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "engineshed.scheduler"],
                env=self.environment,
                stdout=log,
                stderr=log,
            )

    def wait_ready(self) -> None:
        """Wait until it leads."""
        with grpc.insecure_channel(self.address) as channel:
            following = health_pb2_grpc.HealthStub(channel).Watch(
                health_pb2.HealthCheckRequest(service=LEADER), wait_for_ready=True, timeout=DEADLINE
            )
            try:
                for health in following:
                    if health.status == health_pb2.HealthCheckResponse.SERVING:
                        return
            except grpc.RpcError as error:
                raise AssertionError(f"it does not lead: {self.log()[-3000:]}") from error

    async def listens(self) -> bool:
        host, _, port = self.address.partition(":")
        try:
            _, writer = await asyncio.open_connection(host, int(port))
        except ConnectionRefusedError:
            return False
        writer.close()
        return True

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def restart(self) -> None:
        self.kill()
        self.start()
        self.wait_ready()

    def terminate(self) -> int:
        """Ask it to end; return its exit status."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=DEADLINE)

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.kill()
        self.broker.kill()
        self.catalog.stop()

    def log(self) -> str:
        return (self.directory / "scheduler.log").read_text()

    def agent(self, region: str, **inventory: object) -> scripted_agent.ScriptedAgent:
        return scripted_agent.ScriptedAgent(self.target, region=region, **inventory)  # type: ignore[arg-type]  # the inventory's fields

    def tenant(self, *scopes: str) -> "Tenant":
        """Return a new organization's caller."""
        return Tenant(self, ids.new(ids.ORGANIZATION), scopes or ("admin",))

    async def publish_tokens(self) -> None:
        """Bring all tokens to the broker, as the catalog does, so that they work without it."""
        bus = await Bus.connect(self.broker.urls["catalog"], name="catalog")
        entries = dict(self.catalog.grants)

        async def all_entries() -> dict[str, TokenGrant]:
            return entries

        owner = asyncio.create_task(KeyValueOwner(bus, TOKENS, all_entries).run())
        watcher = KeyValueWatcher(bus, TOKENS)
        watching = asyncio.create_task(watcher.run())
        await eventually("the tokens", lambda: len(watcher.entries) == len(entries))
        for task in (owner, watching):
            task.cancel()
        await asyncio.gather(owner, watching, return_exceptions=True)
        await bus.close()


class Tenant:
    """An organization with a token, and what it does with the API."""

    def __init__(self, stack: Stack, org_id: str, scopes: tuple[str, ...]) -> None:
        self.org_id = org_id
        self.catalog = stack.catalog
        token = stack.catalog.token(org_id, *scopes)
        self.channel = open_channel(stack.target, token, "test", healthy=LEADER)
        self.endpoints = EndpointServiceStub(self.channel)
        self.nodes = NodeServiceStub(self.channel)
        self._events = EventServiceStub(self.channel)

    async def close(self) -> None:
        await self.channel.close()

    async def create(self, region: str, **fields: object) -> pb.Endpoint:
        values: dict[str, object] = {
            "name": "bot",
            "region": region,
            "checkpoint_id": fields.pop("checkpoint_id", None)
            or self.catalog.checkpoint(self.org_id),
            **fields,
        }
        request = pb.CreateEndpointRequest(**values)  # type: ignore[arg-type]  # protobuf checks them
        endpoint: pb.Endpoint = (
            await self.endpoints.CreateEndpoint(request, wait_for_ready=True)
        ).endpoint
        return endpoint

    async def get(self, endpoint_id: str) -> pb.Endpoint:
        request = pb.GetEndpointRequest(endpoint_id=endpoint_id)
        endpoint: pb.Endpoint = (
            await self.endpoints.GetEndpoint(request, wait_for_ready=True)
        ).endpoint
        return endpoint

    async def until(self, endpoint_id: str, *states: pb.Endpoint.State.ValueType) -> pb.Endpoint:
        """Wait until the endpoint is in one of these states."""

        async def there() -> pb.Endpoint | None:
            endpoint = await self.get(endpoint_id)
            return endpoint if endpoint.state in states else None

        names = [pb.Endpoint.State.Name(state) for state in states]
        endpoint: pb.Endpoint = await eventually(f"{endpoint_id} to be {names}", there)
        return endpoint

    async def stop(self, endpoint_id: str) -> pb.Endpoint:
        request = pb.StopEndpointRequest(endpoint_id=endpoint_id)
        endpoint: pb.Endpoint = (
            await self.endpoints.StopEndpoint(request, wait_for_ready=True)
        ).endpoint
        return endpoint

    async def restart(self, endpoint_id: str) -> pb.Endpoint:
        request = pb.RestartEndpointRequest(endpoint_id=endpoint_id)
        endpoint: pb.Endpoint = (
            await self.endpoints.RestartEndpoint(request, wait_for_ready=True)
        ).endpoint
        return endpoint

    async def delete(self, endpoint_id: str) -> pb.Endpoint:
        request = pb.DeleteEndpointRequest(endpoint_id=endpoint_id)
        endpoint: pb.Endpoint = (
            await self.endpoints.DeleteEndpoint(request, wait_for_ready=True)
        ).endpoint
        return endpoint

    async def events(self, stream: str = "", **fields: object) -> list[Event]:
        request = ReadEventsRequest(stream=stream, **fields)  # type: ignore[arg-type]  # protobuf checks them
        return [
            reply.event async for reply in self._events.ReadEvents(request, wait_for_ready=True)
        ]

    async def history(self, endpoint_id: str) -> list[str]:
        """Return the names of what happened to an endpoint."""
        events = await self.events(f"endpoint/{endpoint_id}")
        return [event.data.type_url.rpartition(".")[2] for event in events]
