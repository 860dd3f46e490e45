"""A host is emptied while its endpoint streams, and taken out of the fleet, with real Tritons.

Or it shuts down without anybody having asked for that.
"""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from tests.e2e.stack import BIN, Json, Stack, running, wait_for

NODES = "/v0/nodes"


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    """Return a stack of the test's own: draining moves whatever is there."""
    with running(tmp_path / "state", "--slots", "2") as stack:
        yield stack


@pytest.fixture
def second_host(stack: Stack) -> Iterator[str]:
    """Return the node of another agent on this machine."""
    (first,) = stack.get(NODES)["data"]
    directory = stack.directory / "second"
    environment = {**stack.service("agent").environ(), "ENGINESHED_STATE_DIR": str(directory)}
    del environment["ENGINESHED_METRICS_LISTEN"]
    with (stack.directory / "logs" / "second.log").open("wb") as log:
        agent = subprocess.Popen(
            [sys.executable, "-m", "engineshed.agent"], env=environment, stdout=log, stderr=log
        )
    yield wait_for("the second host", lambda: other_than(stack, first["node_id"]))
    agent.terminate()
    agent.wait(timeout=30)


def other_than(stack: Stack, node_id: str) -> str | None:
    """Return the node beside this one, if there is one in the list."""
    found = {node["node_id"] for node in stack.get(NODES)["data"]} - {node_id}
    return found.pop() if found else None


def shed(stack: Stack, *words: str) -> None:
    done = subprocess.run(
        [BIN / "shed", *words],
        env=stack.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@contextmanager
def streamed_without_a_pause(stack: Stack, key: str, callers: int = 3) -> Iterator[list[str]]:
    """Stream answers beside the block; yield how each has ended so far: its last line, or why."""
    ends: list[str] = []
    enough = threading.Event()
    messages = [{"role": "user", "content": "hello"}]
    body = {"model": key, "messages": messages, "stream": True, "max_tokens": 32}

    def ask() -> None:
        with stack.client() as client:
            while not enough.is_set():
                try:
                    with client.stream("POST", "/v1/chat/completions", json=body) as answer:
                        lines = [line for line in answer.iter_lines() if line]
                except httpx.HTTPError as error:
                    ends.append(repr(error))
                else:
                    ends.append(lines[-1])

    threads = [threading.Thread(target=ask) for _ in range(callers)]
    for thread in threads:
        thread.start()
    try:
        wait_for("answers", lambda: len(ends) >= callers)
        yield ends
    finally:
        enough.set()
        for thread in threads:
            thread.join()


def test_a_host_is_drained_without_a_failed_request(
    stack: Stack, foreign_directory: Path, second_host: str
) -> None:
    checkpoint = stack.register(foreign_directory, "moving")
    shed(stack, "cordon", second_host)
    endpoint = stack.deploy(checkpoint["checkpoint_id"], "moving")
    shed(stack, "uncordon", second_host)
    (before,) = endpoint["replicas"]
    assert before["node_id"] != second_host
    with streamed_without_a_pause(stack, endpoint["routing_key"]) as ends:
        shed(stack, "drain", before["node_id"], "--reason", "a new kernel", "--wait")

    assert set(ends) == {"data: [DONE]"}
    after = stack.endpoint(endpoint["endpoint_id"])
    ready: list[Json] = [item for item in after["replicas"] if item["status"] == "ready"]
    assert [item["node_id"] for item in ready] == [second_host]
    assert (after["status"], after["degraded"]) == ("running", False)

    # The emptied host goes; what has moved goes on.
    stack.service("agent").suspend()  # whoever stops it for good, `shed up` starts it again
    shed(stack, "remove-node", before["node_id"], "--yes")
    assert other_than(stack, second_host) is None
    assert stack.chat(endpoint["routing_key"], "hello", max_tokens=4).is_success
    stack.service("agent").resume()
    assert wait_for("the host to join again", lambda: other_than(stack, second_host))


def test_a_replica_whose_host_shuts_down_fails_no_request_and_is_replaced(
    stack: Stack, foreign_directory: Path
) -> None:
    checkpoint = stack.register(foreign_directory, "going")
    scaling = {"min_replicas": 2, "max_replicas": 2}
    endpoint = stack.deploy(checkpoint["checkpoint_id"], "going", scaling=scaling)

    def ready() -> set[str] | None:
        replicas = stack.endpoint(endpoint["endpoint_id"])["replicas"]
        found = {item["replica_id"] for item in replicas if item["status"] == "ready"}
        return found if len(found) == 2 else None

    before = wait_for("both replicas", ready)
    with streamed_without_a_pause(stack, endpoint["routing_key"]) as ends:
        front = stack.fronts()[0]
        os.killpg(front.pid, signal.SIGTERM)  # its Triton gets it as well
        wait_for("its successor", lambda: (now := ready()) is not None and now != before)

    assert set(ends) == {"data: [DONE]"}
    assert front.pid not in {process.pid for process in stack.fronts()}
    # It said that it drains: the time until it ended is nobody's fault, and not billed.
    path = f"/v0/dedicated_endpoints/{endpoint['endpoint_id']}/events"
    types = [event["name"] for event in stack.get(path)["data"]]
    assert "ReplicaDraining" in types
