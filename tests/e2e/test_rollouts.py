"""Changing what an endpoint serves while it is asked without a pause, with real Tritons."""

import json
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tests.e2e.checkpoints import make_checkpoint
from tests.e2e.stack import Json, Stack, wait_for

ENDPOINTS = "/v0/dedicated_endpoints"


@contextmanager
def asked_without_a_pause(stack: Stack, key: str, callers: int = 3) -> Iterator[list[int]]:
    """Ask beside the block, each caller as fast as it is answered; yield the statuses so far."""
    statuses: list[int] = []
    enough = threading.Event()

    def ask() -> None:
        while not enough.is_set():
            statuses.append(stack.chat(key, "hello", max_tokens=8).status_code)

    threads = [threading.Thread(target=ask) for _ in range(callers)]
    for thread in threads:
        thread.start()
    try:
        wait_for("answers", lambda: len(statuses) >= callers)
        yield statuses
    finally:
        enough.set()
        for thread in threads:
            thread.join()


def rolled_out(stack: Stack, endpoint_id: str) -> Json:
    def over() -> Json | None:
        found = stack.endpoint(endpoint_id)
        return found if found["rollout"] is None else None

    return wait_for("the end of the rollout", over, seconds=120)


def shed(stack: Stack, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["shed", *words], env=stack.environment, capture_output=True, text=True, check=False
    )


def test_another_checkpoint_is_rolled_out_without_a_failed_request(
    stack: Stack, foreign_directory, tmp_path
) -> None:
    first = stack.register(foreign_directory, "first")
    endpoint = stack.deploy(first["checkpoint_id"], "rolling")
    endpoint_id, key = endpoint["endpoint_id"], endpoint["routing_key"]
    before = stack.chat(key, "hello", max_tokens=8).json()
    second = stack.register(make_checkpoint(tmp_path / "mistral", "mistral"), "second")

    with asked_without_a_pause(stack, key) as statuses:
        words = ("endpoints", "update", endpoint_id, "--checkpoint", second["checkpoint_id"])
        done = shed(stack, *words, "--wait")
        assert done.returncode == 0, done.stderr

    assert set(statuses) == {200}
    after = stack.endpoint(endpoint_id)
    assert after["checkpoint_digest"] == second["digest"]
    (ready,) = [item for item in after["replicas"] if item["status"] == "ready"]
    assert ready["deployment"] == after["deployment"] == 2
    answer = stack.chat(key, "hello", max_tokens=8).json()
    assert answer["system_fingerprint"] != before["system_fingerprint"]
    stack.delete(f"{ENDPOINTS}/{endpoint_id}")


def test_a_rollout_that_cannot_be_served_leaves_the_old_replica_and_is_rolled_back(
    stack: Stack, foreign_directory, tmp_path
) -> None:
    endpoint = stack.deploy(stack.register(foreign_directory, "good")["checkpoint_id"], "keeps")
    endpoint_id, key = endpoint["endpoint_id"], endpoint["routing_key"]
    path = f"{ENDPOINTS}/{endpoint_id}"
    directory = make_checkpoint(tmp_path / "strange", "mistral")
    config = json.loads((directory / "config.json").read_text())
    config |= {"architectures": ["HoverTrainForCausalLM"], "model_type": "hover_train"}
    (directory / "config.json").write_text(json.dumps(config))
    strange = stack.register(directory, "strange")

    with asked_without_a_pause(stack, key) as statuses:
        stack.patch(path, {"checkpoint_id": strange["checkpoint_id"]})

        def failed() -> Json | None:
            found = stack.endpoint(endpoint_id)
            rollout = found["rollout"]
            return found if rollout and rollout["status"] == "failed" else None

        found = wait_for("the failure", failed, seconds=120)
        assert "hover" in found["rollout"]["reason"].lower()
        assert (found["status"], found["degraded"]) == ("running", False)
        refused = shed(stack, "endpoints", "update", endpoint_id, "--gpus", "64")
        assert refused.returncode == 1
        assert "gpu_count" in refused.stderr
        done = shed(stack, "endpoints", "rollback", endpoint_id, "--wait")
        assert done.returncode == 0, done.stderr

    assert set(statuses) == {200}
    after = stack.endpoint(endpoint_id)
    assert after["checkpoint_id"] == endpoint["checkpoint_id"]
    ready = [item["replica_id"] for item in after["replicas"] if item["status"] == "ready"]
    assert ready == [item["replica_id"] for item in endpoint["replicas"]]
    stack.delete(path)


def test_a_change_that_waits_for_room_is_explained(stack: Stack, foreign_directory) -> None:
    checkpoint = stack.register(foreign_directory, "explained")
    endpoint = stack.deploy(checkpoint["checkpoint_id"], "explained")
    endpoint_id = endpoint["endpoint_id"]
    assert shed(stack, "endpoints", "update", endpoint_id, "--gpus", "6").returncode == 0

    told = shed(stack, "explain", endpoint_id)

    assert told.returncode == 0, told.stderr
    assert f"{endpoint['replicas'][0]['replica_id']} is ready" in told.stdout
    assert "1 replica is not placed: waiting for 6 free GPUs on one cpu node" in told.stdout
    assert "kept for it: node_" in told.stdout
    assert stack.endpoint(endpoint_id)["status"] == "running"
    stack.delete(f"{ENDPOINTS}/{endpoint_id}")


def test_serving_parameters_are_changed_by_recreating_where_that_is_asked_for(
    stack: Stack, foreign_directory
) -> None:
    checkpoint = stack.register(foreign_directory, "recreated")
    endpoint = stack.deploy(checkpoint["checkpoint_id"], "recreated")
    path = f"{ENDPOINTS}/{endpoint['endpoint_id']}"

    changed = stack.patch(path, {"serving": {"max_context": 64}, "update_strategy": "recreate"})

    assert changed["serving"] == {**endpoint["serving"], "max_context": 64}
    assert changed["rollout"]["strategy"] == "recreate"
    assert [item["status"] for item in changed["replicas"]] == ["draining"]
    rolled_out(stack, endpoint["endpoint_id"])
    too_long = stack.chat(endpoint["routing_key"], "hello " * 100, max_tokens=8)
    assert too_long.status_code == 400
    stack.delete(path)
