"""Endpoints that hold no GPU while nobody uses them, from the first request to the next."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
from tests.e2e.stack import Json, Stack, wait_for

ENDPOINTS = "/v0/dedicated_endpoints"
PATIENCE_SECONDS = 150.0


@contextmanager
def sometimes(stack: Stack, sample: Json, **scaling: float) -> Iterator[Json]:
    """Have an endpoint without replicas of its own for the time of the block."""
    body = {
        "name": "sometimes",
        "checkpoint_id": sample["checkpoint_id"],
        "serving": {"precision": "float32"},
        "scaling": {"min_replicas": 0, "max_replicas": 1, **scaling},
    }
    endpoint = stack.post(ENDPOINTS, body)
    yield endpoint
    stack.delete(f"{ENDPOINTS}/{endpoint['endpoint_id']}")


def ask(stack: Stack, endpoint: Json, **more: object) -> httpx.Response:
    body = {"model": endpoint["routing_key"], "prompt": "An engine shed is", "max_tokens": 4}
    with stack.client() as client:
        return client.post("/v1/completions", json=body | more, timeout=PATIENCE_SECONDS)


def healthy(stack: Stack, endpoint: Json) -> tuple[int, Json]:
    host = {"host": f"{endpoint['routing_key']}.localhost:{stack.port}"}
    with stack.client() as client:
        answer = client.get("/health", headers=host)
    return answer.status_code, answer.json()


def happened(stack: Stack, endpoint: Json, name: str) -> int:
    events = stack.get(f"{ENDPOINTS}/{endpoint['endpoint_id']}/events")["data"]
    return sum(event["name"] == name for event in events)


def test_an_endpoint_that_nobody_uses_is_idle_and_requests_wake_it_again_and_again(
    stack: Stack, sample: Json
) -> None:
    with sometimes(stack, sample, idle_after=1, wake_timeout=120) as created:
        assert (created["status"], created["replicas"]) == ("idle", [])
        models = [item["id"] for item in stack.get("/v1/models")["data"]]
        assert created["routing_key"] in models
        assert healthy(stack, created) == (503, {"status": "idle"})
        assert stack.endpoint(created["endpoint_id"])["status"] == "idle"

        with ThreadPoolExecutor() as callers:
            first = list(callers.map(lambda _: ask(stack, created), range(3)))
        assert [answer.status_code for answer in first] == [200] * 3
        assert happened(stack, created, "EndpointWoken") == 1
        stack.until(created["endpoint_id"], "idle")

        streamed = ask(stack, created, stream=True)
        assert streamed.status_code == 200
        assert streamed.text.rstrip().endswith("[DONE]")
        assert happened(stack, created, "EndpointWoken") == 2
        idle = stack.until(created["endpoint_id"], "idle")
        assert (idle["wanted_replicas"], idle["ever_ready"]) == (0, True)


def test_a_request_that_finds_no_room_is_told_what_it_waits_for_and_the_next_one_finds_it(
    stack: Stack, sample: Json
) -> None:
    (node,) = stack.get("/v0/nodes")["data"]
    path = f"/v0/nodes/{node['node_id']}"
    with sometimes(stack, sample, idle_after=60, wake_timeout=1) as created:
        stack.post(f"{path}/cordon", {"reason": "a test"})
        try:
            refused = ask(stack, created)
            queued = stack.until(created["endpoint_id"], "queued")
            wait_for("the reason", lambda: queued["status_reason"] in _message(ask(stack, created)))
        finally:
            stack.post(f"{path}/uncordon")
        assert refused.status_code == 503
        assert int(refused.headers["retry-after"]) > 0
        assert refused.json()["error"]["code"] == "endpoint_waking"
        assert queued["status_reason"]

        stack.patch(f"{ENDPOINTS}/{created['endpoint_id']}", {"scaling": {"wake_timeout": 120}})
        answer = wait_for("an answer", lambda: _answered(ask(stack, created)))
        assert answer["usage"]["completion_tokens"] == 4


def _message(answer: httpx.Response) -> str:
    return str(answer.json()["error"]["message"])


def _answered(answer: httpx.Response) -> Json | None:
    return answer.json() if answer.is_success else None


def test_a_request_that_is_held_ends_when_its_endpoint_is_stopped(
    stack: Stack, sample: Json
) -> None:
    (node,) = stack.get("/v0/nodes")["data"]
    path = f"/v0/nodes/{node['node_id']}"
    with sometimes(stack, sample, wake_timeout=120) as created, ThreadPoolExecutor() as callers:
        stack.post(f"{path}/cordon", {"reason": "a test"})
        try:
            asking = callers.submit(ask, stack, created)
            stack.until(created["endpoint_id"], "queued")
            stack.post(f"{ENDPOINTS}/{created['endpoint_id']}/stop")
            answer = asking.result(PATIENCE_SECONDS)
        finally:
            stack.post(f"{path}/uncordon")
        assert answer.status_code == 404
        assert answer.json()["error"]["code"] == "endpoint_stopped"
