"""Parts are killed and stopped while requests run: what was promised goes on."""

import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest
from tests.e2e.checkpoints import make_checkpoint
from tests.e2e.conftest import SAMPLE
from tests.e2e.stack import Json, Stack, running, wait_for


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Stack, Json]]:
    """A stack of its own with one endpoint: these tests break things."""
    with running(tmp_path_factory.mktemp("faults") / "state", "--slots", "3") as stack:
        yield stack, stack.deploy(stack.register(SAMPLE)["checkpoint_id"])


@contextmanager
def under_load(stack: Stack, endpoint: Json) -> Iterator[Counter[str]]:
    """Send requests one after the other from four clients; count their outcomes."""
    outcomes: Counter[str] = Counter()
    done = threading.Event()

    def send() -> None:
        body = {
            "model": endpoint["routing_key"],
            "messages": [{"role": "user", "content": "hi"}],
            "max_tokens": 4,
        }
        with stack.client() as client:
            while not done.is_set():
                try:
                    answer = client.post("/v1/chat/completions", json=body)
                    outcomes[str(answer.status_code)] += 1
                except httpx.HTTPError as error:
                    outcomes[type(error).__name__] += 1

    clients = [threading.Thread(target=send) for _ in range(4)]
    for client in clients:
        client.start()
    try:
        yield outcomes
    finally:
        done.set()
        for client in clients:
            client.join()


def more_answers(outcomes: Counter[str], count: int = 40) -> None:
    """Return when so many more requests have been answered."""
    begun = sum(outcomes.values())
    wait_for("more answers", lambda: sum(outcomes.values()) >= begun + count)


def restarted(stack: Stack, name: str, before: psutil.Process) -> psutil.Process:
    def fresh() -> psutil.Process | None:
        found = stack.nats() if name == "nats" else stack.service(name)
        return found if found.pid != before.pid else None

    return wait_for(f"{name} to come back", fresh)


@pytest.mark.parametrize("name", ["catalog", "scheduler", "nats", "agent"])
def test_requests_go_on_while_a_part_is_killed_and_it_comes_back(own, name) -> None:
    stack, endpoint = own
    victim = stack.nats() if name == "nats" else stack.service(name)
    triton = stack.tritons()

    with under_load(stack, endpoint) as outcomes:
        more_answers(outcomes)
        victim.kill()
        more_answers(outcomes)
        restarted(stack, name, victim)
        more_answers(outcomes)

    assert set(outcomes) == {"200"}
    assert [process.pid for process in stack.tritons()] == [process.pid for process in triton]


def test_requests_go_on_while_the_whole_control_plane_is_dead(own) -> None:
    stack, endpoint = own
    victims = {"nats": stack.nats()} | {
        name: stack.service(name) for name in ("catalog", "scheduler")
    }

    with under_load(stack, endpoint) as outcomes:
        for victim in victims.values():
            victim.kill()
        more_answers(outcomes)
        for name, victim in victims.items():
            restarted(stack, name, victim)
        more_answers(outcomes)

    assert set(outcomes) == {"200"}
    wait_for("the control plane", lambda: _status(stack, endpoint) == "running")


def test_requests_go_on_while_the_control_plane_hangs_and_all_heals(own) -> None:
    stack, endpoint = own
    victims = [stack.nats(), stack.service("catalog"), stack.service("scheduler")]

    with under_load(stack, endpoint) as outcomes:
        for victim in victims:
            victim.send_signal(signal.SIGSTOP)
        begun = time.monotonic()
        # Longer than a node's lease, so that the scheduler wakes up to a node not heard.
        wait_for("the hang to last", lambda: time.monotonic() - begun > 15)
        for victim in victims:
            victim.send_signal(signal.SIGCONT)
        wait_for(
            "the control plane",
            lambda: _status(stack, endpoint) == "running" and _joined(stack),
        )
        more_answers(outcomes)

    assert set(outcomes) == {"200"}


def _status(stack: Stack, endpoint: Json) -> str:
    with stack.client() as client:
        answer = client.get(f"/v0/dedicated_endpoints/{endpoint['endpoint_id']}")
    return str(answer.json()["status"]) if answer.is_success else ""


def _joined(stack: Stack) -> bool:
    with stack.client() as client:
        answer = client.get("/v0/nodes")
    return answer.is_success and all(node["status"] == "joined" for node in answer.json()["data"])


@pytest.mark.parametrize("victim", ["triton", "front"])
def test_a_killed_replica_is_replaced_and_the_endpoint_returns_by_itself(own, victim) -> None:
    stack, endpoint = own
    (old,) = stack.until(endpoint["endpoint_id"], "running")["replicas"][-1:]
    (process,) = stack.tritons() if victim == "triton" else stack.fronts()

    process.kill()

    def replaced() -> Json | None:
        found = stack.endpoint(endpoint["endpoint_id"])
        ready = [item for item in found["replicas"] if item["status"] == "ready"]
        return found if ready and ready[0]["replica_id"] != old["replica_id"] else None

    wait_for("a new replica", replaced)
    answer = wait_for("an answer", lambda: _answer(stack, endpoint))
    assert "locomotive" in answer
    assert len(stack.tritons()) == 1


def _answer(stack: Stack, endpoint: Json) -> str:
    answer = stack.chat(endpoint["routing_key"], "What is an engine shed?")
    if answer.status_code == 503:
        assert "retry-after" in answer.headers
        return ""
    assert answer.status_code == 200
    return str(answer.json()["choices"][0]["message"]["content"])


def test_a_triton_killed_in_the_middle_of_a_stream_never_ends_it_cleanly(
    own: tuple[Stack, Json], tmp_path: Path
) -> None:
    stack, _ = own
    slow = make_checkpoint(tmp_path / "slow", "mistral", context=8192)
    endpoint = stack.deploy(stack.register(slow)["checkpoint_id"], "stream")
    known = {process.pid for process in stack.tritons()}
    body = {
        "model": endpoint["routing_key"],
        "messages": [{"role": "user", "content": "go on"}],
        "temperature": 2,
        "stream": True,
    }
    lines: list[str] = []
    broke = False
    with (
        stack.client() as client,
        client.stream("POST", "/v1/chat/completions", json=body) as answer,
    ):
        assert answer.status_code == 200
        received = answer.iter_lines()
        lines.append(next(received))
        for process in stack.tritons():
            assert process.pid in known
            process.kill()
        try:
            lines.extend(received)
        except httpx.RemoteProtocolError:
            broke = True

    assert "data: [DONE]" not in lines
    assert broke or any('"error"' in line for line in lines)
    stack.delete(f"/v0/dedicated_endpoints/{endpoint['endpoint_id']}")
