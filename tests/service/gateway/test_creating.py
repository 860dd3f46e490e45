"""Creating endpoints over REST, with a real scheduler and scripted agents behind the gateway."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from itertools import count
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from tests.service.scheduler.scripted_agent import ScriptedAgent
from tests.service.scheduler.stack import Stack, eventually

from engineshed import ids
from engineshed.api.catalog.v1.checkpoint_service_pb2 import Checkpoint
from engineshed.api.catalog.v1.template_service_pb2 import Flavor, Template
from engineshed.api.scheduler.v1.endpoint_service_pb2_grpc import EndpointServiceStub
from engineshed.auth import Principal
from engineshed.gateway.controlplane import control_plane
from engineshed.gateway.metrics import GatewayMetrics
from engineshed.gateway.regions import Regions
from engineshed.rpc import LEADER, open_channel
from engineshed.telemetry import Exposition

ENDPOINTS = "/v0/dedicated_endpoints"

# Every test has regions of its own, so that none sees the nodes of another.
_numbers = count(1)

Body = dict[str, Any]
Join = Callable[..., Awaitable[ScriptedAgent]]
Asked = Callable[..., Body]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    stack = Stack(tmp_path_factory.mktemp("scheduler"))
    stack.start()
    stack.wait_ready()
    yield stack
    stack.close()


@pytest.fixture
async def join(stack: Stack, number: int) -> AsyncIterator[Join]:
    agents: list[ScriptedAgent] = []

    async def join(region: str, **inventory: object) -> ScriptedAgent:
        agent = stack.agent(f"{region}-{number}", **inventory)
        agents.append(agent.start())
        await eventually("the desired state", lambda: agent.received)
        return agent

    yield join
    for agent in agents:
        await agent.stop()


@pytest.fixture
def number() -> int:
    return next(_numbers)


@pytest.fixture
async def client(stack: Stack, number: int) -> AsyncIterator[httpx.AsyncClient]:
    org_id = ids.new(ids.ORGANIZATION)
    secret = stack.catalog.token(org_id, "admin")
    stack.catalog.templates["acme/bot"] = Template(
        model_name="acme/bot",
        checkpoint_id=stack.catalog.checkpoint(ids.PLATFORM),
        flavors=[
            Flavor(
                flavor_name="base",
                gpu_types=["h100-sxm"],
                gpu_counts=[2, 4],
                regions=[f"eu-{number}", f"us-{number}"],
                max_context=4096,
            )
        ],
    )

    class Callers:
        async def authenticate(self, secret: str) -> Principal:
            return Principal("tok_1", org_id, frozenset({"admin"}))

    metrics = GatewayMetrics()
    async with open_channel(
        stack.target, stack.gateway_token, "gateway", healthy=LEADER
    ) as channel:
        services: Any = SimpleNamespace(
            endpoints=EndpointServiceStub(channel), authenticator=Callers(), routes=None
        )
        app = control_plane(
            services,
            Regions("eu", "http://localhost:8080"),
            metrics,
            Exposition("gateway", metrics),
        )
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app),
            base_url="http://gateway",
            headers={"authorization": f"Bearer {secret}"},
        ) as client:
            yield client


@pytest.fixture
def asked(number: int) -> Asked:
    def asked(**fields: object) -> Body:
        usual = {"model_name": "acme/bot", "gpu_type": "h100-sxm", "region": f"eu-{number}"}
        return {"name": "bot"} | usual | fields

    return asked


async def created(client: httpx.AsyncClient, body: Body) -> Body:
    answer = await client.post(ENDPOINTS, json=body)
    assert answer.status_code == 201, answer.text
    endpoint: Body = answer.json()
    return endpoint


async def test_what_the_template_or_the_fleet_cannot_give_is_refused_by_name(
    client: httpx.AsyncClient, join: Join, asked: Asked, number: int
) -> None:
    await join("eu", gpu_type="h100-sxm", gpus=8)
    await join("us", gpu_type="h200-sxm", gpus=8)
    await join("asia", gpu_type="h100-sxm", gpus=8)
    cases: list[tuple[Body, int, str, str, str]] = [
        (asked(gpu_type="b200"), 422, "NOT_IN_TEMPLATE", "gpu_type", "h100-sxm"),
        (asked(region=f"us-{number}"), 422, "UNKNOWN_GPU_TYPE", "gpu_type", "no node that offers"),
        (asked(region="asia"), 422, "NOT_IN_TEMPLATE", "region", f"eu-{number}, us-{number}"),
        (asked(region="mars"), 422, "NOT_IN_TEMPLATE", "region", f"eu-{number}, us-{number}"),
        (asked(gpu_count=3), 422, "NOT_IN_TEMPLATE", "gpu_count", "2, 4"),
        (asked(flavor_name="fast"), 422, "NOT_IN_TEMPLATE", "flavor_name", "base"),
        (asked(scaling={"min_replicas": 5}), 409, "EXCEEDS_FLEET", "", "4 replicas"),
        (asked(gpu_count=9), 422, "INVALID_FIELD", "gpu_count", "at most 8"),
    ]
    for body, status, code, field, valid in cases:
        answer = await client.post(ENDPOINTS, json=body)
        problem = answer.json()
        assert (answer.status_code, problem["reason"]) == (status, code), (body, problem)
        assert valid in problem["detail"]
        fields = [one["field"] for one in problem.get("errors", [])]
        assert fields == ([field] if field else []), (body, problem)


async def test_a_bare_checkpoint_on_a_gpu_type_that_no_node_has_names_those_there_are(
    client: httpx.AsyncClient, join: Join, stack: Stack, number: int
) -> None:
    await join("eu", gpu_type="h100-sxm", gpus=8)
    checkpoint_id = stack.catalog.checkpoint(ids.PLATFORM)
    body = {"name": "bot", "checkpoint_id": checkpoint_id, "gpu_type": "b200"}
    body["region"] = f"eu-{number}"
    answer = await client.post(ENDPOINTS, json=body)
    assert (answer.status_code, answer.json()["reason"]) == (422, "UNKNOWN_GPU_TYPE")
    message = f"no node in eu-{number} has b200; valid: h100-sxm"
    assert answer.json()["errors"] == [{"field": "gpu_type", "message": message}]
    assert answer.json()["detail"] == f"gpu_type: {message}"


async def test_each_replica_has_its_gpus_on_one_node_of_its_region(
    client: httpx.AsyncClient, join: Join, asked: Asked, number: int
) -> None:
    nodes = {(await join("eu", gpu_type="h100-sxm", gpus=6)).node_id for _ in range(2)}
    await join("us", gpu_type="h100-sxm", gpus=8)
    body = asked(gpu_count=4, scaling={"min_replicas": 2}, on_no_capacity="fail")
    endpoint = await created(client, body)
    assert {one["node_id"] for one in endpoint["replicas"]} == nodes
    assert [len(one["gpus"]) for one in endpoint["replicas"]] == [4, 4]

    # Two nodes have two free GPUs each: four in all, and no four on one of them.
    answer = await client.post(ENDPOINTS, json=asked(gpu_count=4, on_no_capacity="fail"))
    assert (answer.status_code, answer.json()["reason"]) == (409, "NO_CAPACITY")
    assert f"waiting for 4 free GPUs on one h100-sxm node in eu-{number}" in answer.json()["detail"]
    listed = (await client.get(ENDPOINTS)).json()["data"]
    assert [one["endpoint_id"] for one in listed] == [endpoint["endpoint_id"]]


async def test_without_gpu_count_a_template_s_fewest_are_taken(
    client: httpx.AsyncClient, join: Join, asked: Asked, number: int
) -> None:
    await join("eu", gpu_type="h100-sxm", gpus=8)
    endpoint = await created(client, asked())
    assert (endpoint["gpu_count"], endpoint["serving"]["max_context"]) == (2, 4096)


async def test_of_two_at_once_for_the_last_gpus_one_is_refused(
    client: httpx.AsyncClient, join: Join, asked: Asked, number: int
) -> None:
    await join("eu", gpu_type="h100-sxm", gpus=2)
    body = asked(on_no_capacity="fail")
    answers = await asyncio.gather(*(client.post(ENDPOINTS, json=body) for _ in range(2)))
    assert sorted(one.status_code for one in answers) == [201, 409]


async def test_only_the_two_ways_to_meet_a_lack_of_room_are_known(
    client: httpx.AsyncClient, asked: Asked
) -> None:
    answer = await client.post(ENDPOINTS, json=asked(on_no_capacity="panic"))
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "on_no_capacity"


def large(stack: Stack, org_id: str = ids.PLATFORM) -> str:
    """Return the id of a checkpoint with eight billion parameters, still being registered."""
    return stack.catalog.large_checkpoint(org_id, Checkpoint.STATE_REGISTERING)


async def test_what_does_not_fit_into_its_gpus_is_refused_and_nothing_is_left(
    client: httpx.AsyncClient, stack: Stack, join: Join, number: int
) -> None:
    await join("eu", gpu_type="a10", backends=("tensorrt_llm",), simulated=True)
    checkpoint_id = large(stack)
    body = {"name": "bot", "checkpoint_id": checkpoint_id, "region": f"eu-{number}"}
    wide = {"serving": {"max_context": 100_000}}
    answer = await client.post(ENDPOINTS, json=body | wide)
    problem = answer.json()
    assert (answer.status_code, problem["reason"]) == (422, "DOES_NOT_FIT")
    assert [one["field"] for one in problem["errors"]] == ["serving.max_context"]
    assert "it would fit with serving.max_context 41952, or with gpu_count 2" in problem["detail"]
    assert not [one for one in stack.catalog.holds if one[0] == checkpoint_id]

    narrow = {"serving": {"max_context": 4096}}
    endpoint = (await client.post(ENDPOINTS, json=body | narrow)).json()
    answer = await client.patch(f"{ENDPOINTS}/{endpoint['id']}", json=wide)
    assert (answer.status_code, answer.json()["reason"]) == (422, "DOES_NOT_FIT")


async def test_an_estimate_says_the_same_and_creates_nothing(
    client: httpx.AsyncClient, stack: Stack, join: Join, number: int
) -> None:
    await join("eu", gpu_type="a10", backends=("tensorrt_llm",), simulated=True)
    body: Body = {"checkpoint_id": large(stack), "region": f"eu-{number}"}
    found = (await client.post(f"{ENDPOINTS}:estimate", json=body)).json()
    assert (found["fits"], found["gpu_type"], found["gpu_count"]) == (True, "a10", 1)
    assert found["token_bytes"] == 131_072
    assert found["alternatives"] == []
    assert found["measured"] is False

    body["serving"] = {"max_context": 100_000}
    found = (await client.post(f"{ENDPOINTS}:estimate", json=body)).json()
    assert not found["fits"]
    assert found["max_tokens"] < found["needed_context"] == 100_000
    assert [one["gpu_count"] for one in found["alternatives"]] == [1, 2, 1]
    assert all(one["fits"] for one in found["alternatives"])
    assert (await client.get(ENDPOINTS)).json()["data"] == []

    for unseen in (ids.new(ids.CHECKPOINT), large(stack, ids.new(ids.ORGANIZATION))):
        answer = await client.post(f"{ENDPOINTS}:estimate", json=body | {"checkpoint_id": unseen})
        assert (answer.status_code, answer.json()["reason"]) == (404, "CHECKPOINT_NOT_FOUND")


async def test_what_no_engine_is_built_for_is_refused_before_anything_runs(
    client: httpx.AsyncClient, stack: Stack, join: Join, number: int
) -> None:
    await join("eu", gpu_type="a10", backends=("tensorrt_llm",), simulated=True)
    body: Body = {"checkpoint_id": large(stack), "region": f"eu-{number}"}
    fp8 = {"serving": {"quantization": "fp8"}}
    endpoint = (await client.post(ENDPOINTS, json=body | {"name": "bot"})).json()
    for answer in (
        await client.post(ENDPOINTS, json=body | {"name": "bot"} | fp8),
        await client.post(f"{ENDPOINTS}:estimate", json=body | fp8),
        await client.patch(f"{ENDPOINTS}/{endpoint['id']}", json=fp8),
    ):
        assert answer.status_code == 422
        assert answer.json()["errors"] == [
            {
                "field": "serving.quantization",
                "message": "fp8 needs an L4, L40S, H100 or newer; "
                "on a10 int8_wo, int8_sq or int4_awq go",
            }
        ]


async def test_how_large_batches_and_the_cache_are_is_shown_as_it_was_asked(
    client: httpx.AsyncClient, join: Join, asked: Asked
) -> None:
    await join("eu", gpu_type="h100-sxm", gpus=8, backends=("tensorrt_llm",))
    limits = {"max_batch_size": 16, "max_batch_tokens": 2048, "kv_cache_fraction": 0.45}
    created = (await client.post(ENDPOINTS, json=asked(serving=limits))).json()
    served = {"max_context": 4096, "precision": None, "quantization": None}
    assert created["serving"] == served | limits
    one = f"{ENDPOINTS}/{created['id']}"
    changed = await client.patch(one, json={"serving": {"max_batch_size": None}})
    assert changed.json()["serving"] == served | limits | {"max_batch_size": None}
    assert changed.json()["deployment"] == created["deployment"] + 1
