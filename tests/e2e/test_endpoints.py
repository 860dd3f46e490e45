"""The life of endpoints and checkpoints as a user sees it over REST."""

from pathlib import Path

import httpx
import pytest
from tests.e2e.checkpoints import make_checkpoint
from tests.e2e.stack import Json, Stack, wait_for
from tests.metrics import sample as metric

ENDPOINTS = "/v0/dedicated_endpoints"


def refusal(stack: Stack, method: str, path: str, **arguments) -> httpx.Response:
    with stack.client() as client:
        answer = client.request(method, path, **arguments)
    assert answer.is_client_error, f"{answer.status_code} {answer.text}"
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["detail"]
    return answer


def test_an_endpoint_shows_what_it_serves_and_where(stack, sample) -> None:
    found = stack.endpoint(sample["endpoint_id"])

    assert found["id"] == found["endpoint_id"]
    assert found["status"] == "running"
    assert found["serving"]["precision"] == "float32"
    assert found["checkpoint_digest"].startswith("sha256:")
    (replica,) = found["replicas"]
    assert replica["status"] == "ready"
    assert replica["engine_digest"].startswith("sha256:")
    nodes = stack.get("/v0/nodes")["data"]
    holders = [gpu["replica_id"] for node in nodes for gpu in node["gpus"]]
    assert holders.count(replica["replica_id"]) == 1


def test_the_sample_is_always_in_the_list_of_templates_and_can_be_deployed(stack) -> None:
    names = [item["model_name"] for item in stack.get(f"{ENDPOINTS}/templates")["data"]]
    assert "engineshed/sample" in names

    created = stack.post(ENDPOINTS, {"name": "From a template", "model_name": "engineshed/sample"})

    running = stack.until(created["endpoint_id"], "running")
    answer = stack.chat(running["routing_key"], "What is an engine shed?")
    assert "locomotive" in answer.json()["choices"][0]["message"]["content"]
    stack.delete(f"{ENDPOINTS}/{created['endpoint_id']}")


def test_stop_then_restart_gives_the_same_answers_from_the_same_digest(
    stack, foreign_directory
) -> None:
    checkpoint = stack.register(foreign_directory, "stopped")
    endpoint = stack.deploy(checkpoint["checkpoint_id"], "stopped")
    path = f"{ENDPOINTS}/{endpoint['endpoint_id']}"
    key = endpoint["routing_key"]
    before = stack.chat(key, "hello", max_tokens=20).json()

    stack.post(f"{path}/stop")
    stopped = stack.until(endpoint["endpoint_id"], "stopped")
    assert not stopped["enabled"]
    refused = stack.chat(key, "hello")
    assert refused.status_code == 404
    assert refused.json()["error"]["code"] == "endpoint_stopped"
    stack.post(f"{path}/restart")
    stack.until(endpoint["endpoint_id"], "running")

    after = wait_for("an answer", lambda: _answered(stack, key))
    assert after["choices"] == before["choices"]
    assert after["system_fingerprint"] == before["system_fingerprint"]
    stack.delete(path)
    gone = wait_for("the route to go", lambda: _code(stack, key) == "endpoint_not_found")
    assert gone
    assert stack.endpoint(endpoint["endpoint_id"])["status"] == "terminated"


def _answered(stack: Stack, key: str) -> Json | None:
    answer = stack.chat(key, "hello", max_tokens=20)
    return answer.json() if answer.is_success else None


def _code(stack: Stack, key: str) -> str:
    return str(stack.chat(key, "hello").json().get("error", {}).get("code", ""))


def test_a_patch_changes_only_what_it_names_and_etags_guard_it(stack, sample) -> None:
    path = f"{ENDPOINTS}/{sample['endpoint_id']}"
    before = stack.get(path)

    changed = stack.patch(path, {"description": "changed"})

    assert changed["description"] == "changed"
    assert changed["name"] == before["name"]
    assert changed["version"] == before["version"] + 1
    stale = refusal(
        stack, "PATCH", path, json={"name": "x"}, headers={"if-match": f'"{before["etag"]}"'}
    )
    assert stale.status_code == 412
    assert refusal(stack, "PATCH", path, json={"region": "mars"}).status_code == 422


def test_scaling_adds_and_drains_replicas_while_requests_go_on(stack, foreign) -> None:
    path = f"{ENDPOINTS}/{foreign['endpoint_id']}"

    def ready(count: int) -> bool:
        replicas = stack.get(path)["replicas"]
        live = [item for item in replicas if item["status"] not in ("stopped", "failed", "lost")]
        return [item["status"] for item in live] == ["ready"] * count

    stack.patch(path, {"scaling": {"min_replicas": 2, "max_replicas": 2}})
    wait_for("two replicas", lambda: ready(2) or not _serves(stack, foreign))
    assert ready(2)
    stack.patch(path, {"scaling": {"min_replicas": 1, "max_replicas": 1}})
    wait_for("one replica", lambda: ready(1) or not _serves(stack, foreign))
    assert ready(1)


def _serves(stack: Stack, endpoint: Json) -> bool:
    return stack.chat(endpoint["routing_key"], "hi", max_tokens=2).is_success


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ({}, 422, "name"),
        ({"name": "x", "checkpoint_id": "nonsense"}, 422, "checkpoint_id"),
        ({"name": "x", "model_name": "custom"}, 422, "checkpoint_id"),
        ({"name": "x", "model_name": "no/such"}, 422, "model_name"),
        ({"name": 5, "model_name": "engineshed/sample"}, 422, "name"),
        ({"name": "x", "model_name": "engineshed/sample", "colour": 1}, 422, "colour"),
        ({"name": "x", "model_name": "engineshed/sample", "gpu_type": "h900"}, 422, "gpu_type"),
        ({"name": "x", "model_name": "engineshed/sample", "region": "mars"}, 422, "region"),
        (
            {
                "name": "x",
                "model_name": "engineshed/sample",
                "scaling": {"min_replicas": 0, "max_replicas": 0},
            },
            422,
            "scaling.max_replicas",
        ),
        (
            {
                "name": "x",
                "model_name": "engineshed/sample",
                "scaling": {"min_replicas": 3, "max_replicas": 1},
            },
            422,
            "scaling.max_replicas",
        ),
        (
            {
                "name": "x",
                "model_name": "engineshed/sample",
                "serving": {"precision": "int3"},
            },
            422,
            "serving.precision",
        ),
    ],
)
def test_an_invalid_endpoint_is_refused_with_the_field(stack, body, status, field) -> None:
    answer = refusal(stack, "POST", ENDPOINTS, json=body)

    assert answer.status_code == status
    assert field in [item["field"] for item in answer.json()["errors"]]


def test_more_than_the_fleet_could_ever_give_is_refused_as_a_conflict(stack) -> None:
    body = {
        "name": "too many",
        "model_name": "engineshed/sample",
        "scaling": {"min_replicas": 50, "max_replicas": 50},
    }
    assert refusal(stack, "POST", ENDPOINTS, json=body).status_code == 409


def test_unknown_objects_are_not_found(stack) -> None:
    ulid = "01ARZ3NDEKTSV4RRFFQ69G5FAV"
    for path in (
        f"{ENDPOINTS}/ep_{ulid}",
        f"/v0/checkpoints/ckpt_{ulid}",
        f"/v0/nodes/node_{ulid}",
        "/v0/nothing",
    ):
        assert refusal(stack, "GET", path).status_code == 404
    missing = {"name": "x", "checkpoint_id": f"ckpt_{ulid}"}
    assert refusal(stack, "POST", ENDPOINTS, json=missing).status_code == 404


def test_malformed_json_is_told_from_invalid_values(stack) -> None:
    answer = refusal(
        stack,
        "POST",
        ENDPOINTS,
        content=b"{",
        headers={"content-type": "application/json"},
    )
    assert answer.status_code == 400


def test_a_repeated_request_returns_the_first_result(stack) -> None:
    body = {"name": "once", "model_name": "engineshed/sample"}
    headers = {"idempotency-key": "test-once"}
    with stack.client() as client:
        first = client.post(ENDPOINTS, json=body, headers=headers)
        second = client.post(ENDPOINTS, json=body, headers=headers)
        other = client.post(ENDPOINTS, json={**body, "name": "other"}, headers=headers)

    assert first.status_code == second.status_code == 201
    assert first.json()["endpoint_id"] == second.json()["endpoint_id"]
    assert other.is_client_error
    stack.delete(f"{ENDPOINTS}/{first.json()['endpoint_id']}")


def test_a_served_checkpoint_can_be_deleted_and_its_bytes_go_with_the_last_endpoint(
    stack, tmp_path
) -> None:
    source = make_checkpoint(tmp_path / "gpt2", "gpt2")
    checkpoint = stack.register(source, "deleted")
    path = f"/v0/checkpoints/{checkpoint['checkpoint_id']}"
    endpoint = stack.deploy(checkpoint["checkpoint_id"], "deleted")
    copy = stack.directory / "artifacts" / "checkpoints" / checkpoint["checkpoint_id"]
    assert copy.is_dir()

    stack.delete(path)

    assert refusal(stack, "GET", path).status_code == 404
    assert _serves(stack, endpoint)
    restarted = f"{ENDPOINTS}/{endpoint['endpoint_id']}"
    stack.post(f"{restarted}/stop")
    stack.until(endpoint["endpoint_id"], "stopped")
    assert copy.is_dir()  # a stopped endpoint may be restarted
    stack.post(f"{restarted}/restart")
    stack.until(endpoint["endpoint_id"], "running")
    stack.delete(restarted)
    wait_for("the bytes to go", lambda: not copy.exists())
    assert stack.get(f"{path}?show_deleted=true")["status"] == "reclaimed"
    assert (source / "config.json").exists()


@pytest.mark.parametrize("architecture", ["gpt2", "gptj", "mistral"])
def test_other_architectures_are_served_exactly(stack, tmp_path, architecture) -> None:
    from tests.e2e.checkpoints import Reference

    source = make_checkpoint(tmp_path / architecture, architecture)
    endpoint = stack.deploy(stack.register(source, architecture)["checkpoint_id"], architecture)
    reference = Reference(source)
    prompt = reference.prompt("locomotives")
    text, _ = reference.answer(prompt, 24)

    answer = stack.chat(endpoint["routing_key"], "locomotives", max_tokens=24)

    assert answer.json()["choices"][0]["message"]["content"] == text
    stack.delete(f"{ENDPOINTS}/{endpoint['endpoint_id']}")


def test_an_endpoint_waits_for_gpus_and_gets_them_when_they_are_free(stack) -> None:
    (node,) = stack.get("/v0/nodes")["data"]
    free = sum(gpu["replica_id"] is None for gpu in node["gpus"])
    assert free >= 2
    body = {"name": "big", "model_name": "engineshed/sample", "gpu_count": free}
    first = stack.post(ENDPOINTS, body)
    stack.until(first["endpoint_id"], "running")
    second = stack.post(ENDPOINTS, {**body, "name": "waiting"})

    waiting = stack.until(second["endpoint_id"], "queued")

    assert waiting["status_reason"]
    assert waiting["queue_position"] == 1
    stack.delete(f"{ENDPOINTS}/{first['endpoint_id']}")
    stack.until(second["endpoint_id"], "running")
    stack.delete(f"{ENDPOINTS}/{second['endpoint_id']}")


def test_logs_events_and_lineage_tell_the_whole_story(stack, sample) -> None:
    path = f"{ENDPOINTS}/{sample['endpoint_id']}"

    events = stack.get(f"{path}/events")["data"]
    lineage = stack.get(f"{path}/lineage")
    logs = wait_for("logs", lambda: stack.get(f"{path}/logs?limit=500")["data"])

    first = stack.get(f"{path}/events?limit=2")
    rest = stack.get(f"{path}/events?after_position={first['next_page_token']}")
    assert len(first["data"]) == 2
    assert first["data"] + rest["data"] == events
    assert rest["next_page_token"] == ""
    names = [event["name"] for event in events]
    for name in ("EndpointCreated", "ReplicaPlaced", "ReplicaReady", "EndpointRunning"):
        assert name in names
    assert [event["version"] for event in events] == list(range(1, len(events) + 1))
    assert lineage["checkpoint"]["checkpoint_id"] == sample["checkpoint_id"]
    assert lineage["checkpoint"]["files"]
    assert lineage["engines"][0]["engine_digest"] == sample["replicas"][0]["engine_digest"]
    times = [line["time"] for line in logs]
    assert times == sorted(times, reverse=True)
    assert stack.token not in str(events) + str(lineage) + str(logs)


def test_an_owner_sees_what_the_replicas_of_an_endpoint_measure(stack, sample) -> None:
    assert stack.chat(sample["routing_key"], "What is an engine shed?").is_success

    with stack.client() as client:
        answer = client.get(f"{ENDPOINTS}/{sample['endpoint_id']}/metrics")

    assert answer.status_code == 200, answer.text
    (replica,) = stack.endpoint(sample["endpoint_id"])["replicas"]
    of_it = {"replica_id": replica["replica_id"]}
    assert metric(answer.text, "engineshed_endpoint_replicas") == 1
    assert metric(answer.text, "engineshed_endpoint_replicas_unheard") == 0
    assert metric(answer.text, "gen_ai_server_request_duration_seconds_count", **of_it) >= 1
    assert f'nv_inference_count{{replica_id="{replica["replica_id"]}"' in answer.text


def test_logs_of_a_time_are_read_by_source_and_page(stack, sample) -> None:
    path = f"{ENDPOINTS}/{sample['endpoint_id']}/logs"
    everything = wait_for("logs", lambda: stack.get(f"{path}?limit=500")["data"])
    fronts = [line for line in everything if line["source"] == "front"]
    middle = fronts[len(fronts) // 2]["time"]

    since = stack.get(f"{path}?limit=500&source=front&since={middle}")["data"]
    until = stack.get(f"{path}?limit=500&source=front&until={middle}")["data"]

    assert [line for line in since if line["sequence"] <= fronts[0]["sequence"]] + until == fronts
    with stack.client() as client:
        refused = client.get(path, params={"follow": True, "until": middle})
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["field"] == "until"


def test_what_could_not_be_built_says_so_in_its_log(stack, sample) -> None:
    body = {
        "name": "too-large",
        "checkpoint_id": sample["checkpoint_id"],
        "serving": {"precision": "float32", "max_context": 10_000_000},
    }
    endpoint = stack.post(ENDPOINTS, body)
    failed = stack.until(endpoint["endpoint_id"], "failed")
    path = f"{ENDPOINTS}/{endpoint['endpoint_id']}"
    stack.delete(path)

    logs = wait_for("its log", lambda: stack.get(f"{path}/logs")["data"])

    assert logs[0]["source"] == "agent"
    assert logs[0]["line"] == f"failed: {failed['status_reason']}"


def test_an_endpoint_can_be_read_as_it_was(stack, sample) -> None:
    path = f"{ENDPOINTS}/{sample['endpoint_id']}"
    placed = next(
        event for event in stack.get(f"{path}/events")["data"] if event["name"] == "ReplicaPlaced"
    )

    with stack.client() as client:
        then = client.get(path, params={"as_of": placed["time"]}).json()

    assert then["status"] == "provisioning"


def test_the_api_describes_itself(stack) -> None:
    paths = httpx.get(f"{stack.url}/openapi.json", trust_env=False).json()["paths"]
    assert f"{ENDPOINTS}/{{endpoint_id}}/lineage" in paths
    assert httpx.get(f"{stack.url}/docs", trust_env=False).status_code == 200


def test_a_directory_below_the_state_is_never_imported(stack: Stack) -> None:
    inside = stack.directory / "artifacts"
    answer = refusal(stack, "POST", "/v0/checkpoints", json={"name": "x", "uri": inside.as_uri()})
    assert answer.status_code == 422
    assert Path(inside).is_dir()
