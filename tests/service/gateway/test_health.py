"""When a gateway says that it is ready: not before a caller can deploy something."""

from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import grpc
import httpx
import pytest
from grpc.aio import Metadata

from engineshed.api.catalog.v1.template_service_pb2 import ListTemplatesResponse
from engineshed.api.scheduler.v1.node_service_pb2 import ListNodesResponse, Node, NodeInventory
from engineshed.gateway.controlplane import control_plane
from engineshed.gateway.metrics import GatewayMetrics
from engineshed.gateway.regions import Regions
from engineshed.telemetry import Exposition


class Service:
    """Answers what it is told to, once there is something."""

    def __init__(self) -> None:
        self.reply: object = None

    async def answer(self, _: object, **__: object) -> object:
        if self.reply is None:
            nothing = Metadata()
            raise grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, nothing, nothing)
        return self.reply

    ListTemplates = ListNodes = answer


@pytest.fixture
def services() -> Any:
    return SimpleNamespace(templates=Service(), nodes=Service())


@pytest.fixture
async def client(services: Any) -> AsyncIterator[httpx.AsyncClient]:
    metrics = GatewayMetrics()
    plane = control_plane(
        services, Regions("local", "http://localhost:8080"), metrics, Exposition("gateway")
    )
    transport = httpx.ASGITransport(plane)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        yield client


def nodes(
    state: "Node.State.ValueType", region: str = "local", *, reported: bool = True
) -> ListNodesResponse:
    node = Node(state=state, inventory=NodeInventory(region=region), reported=reported)
    return ListNodesResponse(nodes=[node])


async def status(client: httpx.AsyncClient) -> int:
    return (await client.get("/healthz")).status_code


async def test_a_gateway_is_ready_when_catalog_scheduler_and_a_node_are_there(
    client: httpx.AsyncClient, services: Any
) -> None:
    assert await status(client) == 503
    services.nodes.reply = nodes(Node.STATE_JOINED)
    assert await status(client) == 503  # without a catalog there is no token to call with
    services.templates.reply = ListTemplatesResponse()
    assert await status(client) == 200


@pytest.mark.parametrize(
    "found",
    [
        ListNodesResponse(),
        nodes(Node.STATE_LOST),
        nodes(Node.STATE_JOINED, "elsewhere"),
        nodes(Node.STATE_JOINED, reported=False),  # joined before the stack was stopped
    ],
    ids=["none", "lost", "elsewhere", "not reported"],
)
async def test_a_gateway_without_a_node_of_its_region_is_not_ready(
    client: httpx.AsyncClient, services: Any, found: ListNodesResponse
) -> None:
    services.templates.reply = ListTemplatesResponse()
    services.nodes.reply = found

    answer = await client.get("/healthz")

    assert answer.status_code == 503
    assert "no node" in answer.json()["detail"]


@pytest.mark.parametrize("state", [Node.STATE_CORDONED, Node.STATE_DRAINING])
async def test_a_node_that_is_being_taken_out_of_use_is_still_there(
    client: httpx.AsyncClient, services: Any, state: "Node.State.ValueType"
) -> None:
    services.templates.reply = ListTemplatesResponse()
    services.nodes.reply = nodes(state)
    assert await status(client) == 200


async def test_a_gateway_that_was_ready_stays_so_without_the_services(
    client: httpx.AsyncClient, services: Any
) -> None:
    services.templates.reply = ListTemplatesResponse()
    services.nodes.reply = nodes(Node.STATE_JOINED)
    assert await status(client) == 200

    services.templates.reply = services.nodes.reply = None

    assert await status(client) == 200


async def test_a_probe_may_add_parameters_of_its_own(
    client: httpx.AsyncClient, services: Any
) -> None:
    services.nodes.reply = nodes(Node.STATE_JOINED)
    services.templates.reply = ListTemplatesResponse()
    assert (await client.get("/healthz", params={"probe": "1"})).status_code == 200
