"""Operators take hosts out of use over HTTP, with stand-ins for the services behind it."""

from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from engineshed.api.scheduler.v1 import node_service_pb2 as pb
from engineshed.auth import Principal
from engineshed.errors import Kind
from engineshed.gateway.controlplane import control_plane, schemas
from engineshed.gateway.metrics import GatewayMetrics
from engineshed.gateway.regions import Regions
from engineshed.rpc.status import RemoteError
from engineshed.telemetry import Exposition

NODE = "node_01HZZZZZZZZZZZZZZZZZZZZZZZ"
ONE = f"/v0/nodes/{NODE}"


class Nodes:
    """Keeps the requests and whose they are, and answers each with a node or an error."""

    def __init__(self) -> None:
        self.requests: list[Any] = []
        self.error: Exception | None = None

    async def answer(self, request: Any, metadata: tuple[tuple[str, str], ...]) -> Any:
        assert dict(metadata)["authorization"] == "Bearer es_operator"
        self.requests.append(request)
        if self.error is not None:
            raise self.error
        node = pb.Node(node_id=NODE, state=pb.Node.STATE_DRAINING)
        node.join_time.GetCurrentTime()
        return SimpleNamespace(node=node, nodes=[node], next_page_token="")

    ListNodes = GetNode = CordonNode = UncordonNode = DrainNode = RemoveNode = answer


class Callers:
    async def authenticate(self, _: str) -> Principal:
        return Principal("tok_1", "_platform", frozenset({"operator"}))


@pytest.fixture
def nodes() -> Nodes:
    return Nodes()


@pytest.fixture
async def client(nodes: Nodes) -> AsyncIterator[httpx.AsyncClient]:
    services: Any = SimpleNamespace(nodes=nodes, authenticator=Callers(), routes=None)
    metrics = GatewayMetrics()
    plane = control_plane(
        services, Regions("local", "http://localhost:8080"), metrics, Exposition("gateway")
    )
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(plane),
        base_url="http://gateway",
        headers={"authorization": "Bearer es_operator"},
    ) as client:
        yield client


@pytest.mark.parametrize(
    ("verb", "request_type"), [("cordon", pb.CordonNodeRequest), ("drain", pb.DrainNodeRequest)]
)
async def test_a_reason_may_be_given_or_not(
    client: httpx.AsyncClient, nodes: Nodes, verb: str, request_type: Any
) -> None:
    answer = await client.post(f"{ONE}/{verb}", json={"reason": "fans"})
    assert answer.status_code == 200
    schemas.Node.model_validate(answer.json())
    assert (await client.post(f"{ONE}/{verb}")).status_code == 200
    assert nodes.requests == [
        request_type(node_id=NODE, reason="fans"),
        request_type(node_id=NODE),
    ]


@pytest.mark.parametrize("body", [{"reasn": "fans"}, {"reason": 1}])
async def test_what_cannot_be_a_reason_changes_nothing(
    client: httpx.AsyncClient, nodes: Nodes, body: Any
) -> None:
    answer = await client.post(f"{ONE}/drain", json=body)
    assert answer.status_code == 422
    assert [item["field"] for item in answer.json()["errors"]] == list(body)
    assert nodes.requests == []


async def test_uncordoning_and_removing_name_the_node(
    client: httpx.AsyncClient, nodes: Nodes
) -> None:
    await client.post(f"{ONE}/uncordon")
    await client.delete(ONE)
    await client.delete(ONE, params={"force": "true", "reason": "sold"})
    assert nodes.requests == [
        pb.UncordonNodeRequest(node_id=NODE),
        pb.RemoveNodeRequest(node_id=NODE),
        pb.RemoveNodeRequest(node_id=NODE, force=True, reason="sold"),
    ]


@pytest.mark.parametrize(
    ("kind", "reason", "status"),
    [
        (Kind.NOT_FOUND, "NODE_NOT_FOUND", 404),
        (Kind.REFUSED, "NODE_IN_USE", 409),
        (Kind.REFUSED, "WRONG_NODE_STATE", 409),
    ],
)
async def test_a_refusal_says_why(
    client: httpx.AsyncClient, nodes: Nodes, kind: Kind, reason: str, status: int
) -> None:
    nodes.error = RemoteError(kind, reason, "drain it first", (), {"node_id": NODE})
    answer = await client.delete(ONE)
    problem = schemas.Problem.model_validate(answer.json())
    assert answer.status_code == status
    assert (problem.reason, problem.detail) == (reason, "drain it first")


async def test_what_is_no_id_names_no_node(client: httpx.AsyncClient, nodes: Nodes) -> None:
    for verb in ("cordon", "uncordon", "drain"):
        answer = await client.post(f"/v0/nodes/gpu-7/{verb}")
        assert (answer.status_code, answer.json()["reason"]) == (404, "NODE_NOT_FOUND")
    assert (await client.delete("/v0/nodes/gpu-7")).status_code == 404
    assert nodes.requests == []
