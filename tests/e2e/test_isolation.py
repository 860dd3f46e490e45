"""One organization sees and reaches nothing of another, whichever call it tries."""

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from google.protobuf import descriptor_pool
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from tests.e2e.stack import Json, Stack, wait_for

from engineshed.api.agent.v1 import agent_service_pb2
from engineshed.api.catalog.v1 import (
    checkpoint_service_pb2,
    hold_service_pb2,
    organization_service_pb2,
    template_service_pb2,
    token_service_pb2,
)
from engineshed.api.events.v1 import event_service_pb2
from engineshed.api.scheduler.v1 import endpoint_service_pb2, node_service_pb2

SCOPES = [
    "endpoints:read",
    "endpoints:write",
    "inference",
    "artifacts:read",
    "artifacts:write",
    "admin",
]
MODULES = {
    "catalog": [
        checkpoint_service_pb2,
        hold_service_pb2,
        organization_service_pb2,
        template_service_pb2,
        token_service_pb2,
        event_service_pb2,
    ],
    "scheduler": [endpoint_service_pb2, node_service_pb2, event_service_pb2, agent_service_pb2],
}


NOBODY = "01ARZ3NDEKTSV4RRFFQ69G5FAV"
REFUSALS = (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.PERMISSION_DENIED)
# What the rules of the protos demand beside the ids.
VALID = {
    "name": "stolen",
    "scopes": "inference",
    "slug": "stolen",
    "uri": "file:///nowhere",
    "model_name": "custom",
    "secret_sha256": "0" * 64,
}


@pytest.fixture(scope="module")
def stranger(stack: Stack) -> Iterator[str]:
    """An administrator's token of another organization."""
    org = stack.post("/v0/organizations", {"slug": "stranger"})
    token = stack.post(
        "/v0/tokens", {"name": "stranger", "scopes": SCOPES, "org_id": org["org_id"]}
    )
    yield token["token"]
    stack.delete(f"/v0/tokens/{token['token_id']}")


def rest_calls(stack: Stack, owned: dict[str, str]) -> list[tuple[str, str]]:
    """Return every REST call of the platform on objects of the first organization."""
    paths = httpx.get(f"{stack.url}/openapi.json", trust_env=False).json()["paths"]
    calls = []
    for path, methods in paths.items():
        for method in methods:
            filled = path
            for name, value in owned.items():
                filled = filled.replace("{" + name + "}", value)
            assert "{" not in filled, f"the test does not know how to fill {path}"
            calls.append((method.upper(), filled))
    return calls


def test_no_rest_call_shows_or_changes_anything_of_another_organization(
    stack: Stack, sample: Json, stranger: str
) -> None:
    token_id = stack.get("/v0/tokens")["data"][0]["token_id"]
    node_id = stack.get("/v0/nodes")["data"][0]["node_id"]
    owned = {
        "endpoint_id": sample["endpoint_id"],
        "checkpoint_id": sample["checkpoint_id"],
        "token_id": token_id,
        "node_id": node_id,
        "org_id": sample["org_id"],
    }
    nothing = {name: f"{value.partition('_')[0]}_{NOBODY}" for name, value in owned.items()}
    with stack.client(stranger) as client:
        for (method, path), (_, missing) in zip(
            rest_calls(stack, owned), rest_calls(stack, nothing), strict=True
        ):
            arguments: Json = {"json": {}} if method in ("POST", "PATCH") else {}
            theirs = client.request(method, path, **arguments)
            if path == missing:
                assert not any(value in theirs.text for value in owned.values()), path
                continue
            # It must look like one that does not exist.
            none = client.request(method, missing, **arguments)
            assert theirs.status_code == none.status_code, f"{method} {path}: {theirs.text}"
            assert theirs.status_code in (403, 404, 422), f"{method} {path}: {theirs.text}"
            assert theirs.json()["reason"] == none.json()["reason"]
            assert sample["routing_key"] not in theirs.text
        body = {"model": sample["routing_key"], "messages": [{"role": "user", "content": "hi"}]}
        assert client.post("/v1/chat/completions", json=body).status_code == 404
        assert client.get(f"/v1/models/{sample['routing_key']}").status_code == 404
        assert client.get("/v1/models").json()["data"] == []
    with stack.client() as client:
        assert client.get(f"/v0/dedicated_endpoints/{sample['endpoint_id']}").is_success


def test_another_organizations_checkpoint_cannot_be_deployed(
    stack: Stack, sample: Json, stranger: str
) -> None:
    with stack.client(stranger) as client:
        answer = client.post(
            "/v0/dedicated_endpoints",
            json={"name": "theft", "checkpoint_id": sample["checkpoint_id"]},
        )
    assert answer.status_code == 404


def test_a_stranger_imports_nothing_from_the_hosts_disk(
    stack: Stack, stranger: str, foreign_directory: Path
) -> None:
    with stack.client(stranger) as client:
        answer = client.post(
            "/v0/checkpoints", json={"name": "x", "uri": foreign_directory.as_uri()}
        )
    assert answer.status_code == 422


@dataclass(frozen=True)
class Method:
    path: str
    request: Any
    reply: type[Message]
    streaming: bool


def grpc_methods(modules: list[Any], owned: dict[str, str]) -> Iterator[Method]:
    """Yield every method, with a valid request for objects of the first organization."""
    pool = descriptor_pool.Default()
    for module in modules:
        for service in module.DESCRIPTOR.services_by_name.values():
            for method in pool.FindServiceByName(service.full_name).methods:
                if method.client_streaming:
                    continue  # for agents only; the scheduler's own tests refuse others
                request: Any = GetMessageClass(method.input_type)()
                for name, value in {**owned, **VALID}.items():
                    field = method.input_type.fields_by_name.get(name)
                    if field is not None and field.type == field.TYPE_STRING:
                        target = getattr(request, name)
                        target.extend([value]) if field.is_repeated else setattr(
                            request, name, value
                        )
                if method.name == "UpdateEndpoint":
                    request.update_mask.paths.append("name")
                    request.endpoint.name = "stolen"
                reply = GetMessageClass(method.output_type)
                path = f"/{service.full_name}/{method.name}"
                yield Method(path, request, reply, method.server_streaming)


async def answer_to(channel: grpc.aio.Channel, method: Method, token: str) -> tuple[str, Any]:
    """Return what a call shows, and its status when it was refused."""
    make = channel.unary_stream if method.streaming else channel.unary_unary
    call: Any = make(
        method.path,
        request_serializer=type(method.request).SerializeToString,
        response_deserializer=method.reply.FromString,
    )(method.request, metadata=(("authorization", f"Bearer {token}"),), timeout=10)
    try:
        if method.streaming:
            return str([item async for item in call]), None
        return str(await call), None
    except grpc.aio.AioRpcError as error:
        return "", error.code()


async def test_no_grpc_call_shows_or_changes_anything_of_another_organization(
    stack: Stack, sample: Json, stranger: str
) -> None:
    def facts() -> dict[str, str]:
        return {
            "endpoint_id": sample["endpoint_id"],
            "checkpoint_id": sample["checkpoint_id"],
            "token_id": stack.get("/v0/tokens")["data"][0]["token_id"],
            "node_id": stack.get("/v0/nodes")["data"][0]["node_id"],
            "org_id": sample["org_id"],
            "holder_id": sample["endpoint_id"],
            "stream": f"endpoint/{sample['endpoint_id']}",
        }

    owned = await asyncio.to_thread(facts)
    ports = json.loads((stack.directory / "ports.json").read_text())
    tried = 0
    for service, modules in MODULES.items():
        async with grpc.aio.insecure_channel(f"127.0.0.1:{ports[service]}") as channel:
            for method in grpc_methods(modules, owned):
                shown, refused = await answer_to(channel, method, stranger)
                allowed = [None, *REFUSALS]
                if method.path.rpartition("/")[2].startswith("Create"):
                    allowed.append(grpc.StatusCode.INVALID_ARGUMENT)  # no such file
                assert refused in allowed, method.path
                assert sample["org_id"] not in shown, method.path
                assert sample["routing_key"] not in shown, method.path
                if (
                    method.path.rpartition("/")[2].startswith(
                        (
                            *("Get", "Update", "Delete", "Stop", "Restart", "Revoke"),
                            *("Cordon", "Uncordon", "Drain", "Remove"),
                        )
                    )
                    and "Template" not in method.path
                ):
                    assert refused in REFUSALS, method.path
                tried += 1

    assert tried > 15
    endpoint = await asyncio.to_thread(stack.endpoint, sample["endpoint_id"])
    assert (endpoint["name"], endpoint["status"]) == (sample["name"], "running")


def test_a_revoked_token_stops_working(stack: Stack, sample: Json) -> None:
    made = stack.post("/v0/tokens", {"name": "short", "scopes": ["inference"]})
    body = {
        "model": sample["routing_key"],
        "messages": [{"role": "user", "content": "hi"}],
        "max_tokens": 1,
    }
    with stack.client(made["token"]) as client:
        assert client.post("/v1/chat/completions", json=body).status_code == 200
        assert client.get("/v0/dedicated_endpoints").status_code == 403
        stack.delete(f"/v0/tokens/{made['token_id']}")
        wait_for(
            "the token to end",
            lambda: client.post("/v1/chat/completions", json=body).status_code == 401,
            seconds=5,
        )
