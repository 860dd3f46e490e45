"""From the kill of a replica's Triton, or of a whole host, until another one stands in.

First the Triton of a replica is killed that had been ready for a minute, and whose engine is built.
The baseline is the same Triton started by hand: what ours takes more is noticing, deciding, and all
that `deploy` measures, too.

Then a host of two dies: its agent and its replicas at once, for good. Its replicas should be placed
on the other one as soon as its lease has run out, counted from when the host was last heard.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import psutil
from benchmarks.harness import Figure, Report, Target, child, python_module
from benchmarks.parts.by_hand import TritonByHand
from benchmarks.parts.stack import Json, Stack, running_stack, until

from engineshed.scheduler.domain.failure import STEADY_AFTER

ROUNDS: Final = int(os.environ.get("BENCH_FAILOVER_ROUNDS", "5"))
HOSTS: Final = int(os.environ.get("BENCH_FAILOVER_HOSTS", "3"))
REPLICAS: Final = 2  # on a host that dies

_STEPS: Final = ("ReplicaFailed", "ReplicaPlaced", "ReplicaReady")
_LEASE_S: Final = 10.0
_PATIENCE: Final = 120.0
_ENDPOINTS: Final = "/v0/dedicated_endpoints"


def main() -> None:
    """Measure and report."""
    report = Report("failover")
    with tempfile.TemporaryDirectory(prefix="engineshed-bench-") as folder:
        state = Path(folder) / "stack"
        slots = max(ROUNDS, REPLICAS) + 1
        with running_stack(state, "--slots", str(slots)) as stack:
            _measure_tritons(stack, Path(folder) / "models", report)
            _until_nothing_runs(stack)
            _measure_hosts(stack, report)
    report.note(f"{ROUNDS} Tritons and {HOSTS} hosts killed, with the sample model")
    report.finish()


def _measure_tritons(stack: Stack, models: Path, report: Report) -> None:
    first = stack.deploy("first")  # builds the engine
    replica = stack.directory / "agent" / "replicas" / first["replicas"][0]["replica_id"]
    triton = TritonByHand.like(replica, models)
    _remove(stack, first)
    # One for each round: the third crash in a row would be a crash loop.
    endpoints = [stack.deploy(f"number-{number}") for number in range(ROUNDS)]
    time.sleep(STEADY_AFTER.total_seconds())  # so long nobody knows whether they will last
    rounds: list[tuple[float, ...]] = []
    by_hand: list[float] = []
    for endpoint in endpoints:
        by_hand.append(triton.first_token_seconds())
        rounds.append(_failover(stack, endpoint))
    ours, *steps = zip(*rounds, strict=True)
    name, baseline = "from the kill of a Triton to its successor's first token", "Triton by hand"
    target = Target("at most", 2, of="difference")
    middle, middle_by_hand = statistics.median(ours), statistics.median(by_hand)
    report.add(
        Figure(f"{name}, median", middle, "s", baseline, middle_by_hand, target),
        Figure(f"{name}, slowest", max(ours), "s", baseline, max(by_hand), target),
        *(
            Figure(f"from the kill to {event} in the log, median", statistics.median(step), "s")
            for event, step in zip(_STEPS, steps, strict=True)
        ),
    )


def _failover(stack: Stack, endpoint: Json) -> tuple[float, ...]:
    """Kill the Triton of an endpoint; return when what came of it, in seconds from then on.

    First comes the answer of the successor, then what the log says in the order of `_STEPS`.
    """
    replica_id = endpoint["replicas"][0]["replica_id"]
    (triton,) = (one for one in _of_replicas(stack.directory, replica_id) if _is_triton(one))
    triton.kill()
    began, began_at = time.monotonic(), datetime.now(UTC)
    # The gateway may not know yet, and try the dead one: its answer is an error, and no token.
    _until_answered(stack, endpoint)
    seconds = time.monotonic() - began
    after = [_last(stack, endpoint, event) - began_at for event in _STEPS]
    stack.call("DELETE", f"{_ENDPOINTS}/{endpoint['endpoint_id']}")
    return seconds, *(one.total_seconds() for one in after)


def _last(stack: Stack, endpoint: Json, event: str) -> datetime:
    """Return when the last event of a kind was recorded."""
    path = f"{_ENDPOINTS}/{endpoint['endpoint_id']}/events"
    events = stack.call("GET", path)["data"]
    return max(datetime.fromisoformat(one["time"]) for one in events if one["name"] == event)


def _until_answered(stack: Stack, endpoint: Json) -> None:
    body = {
        "model": endpoint["routing_key"],
        "messages": [{"role": "user", "content": "Hello"}],
        "max_tokens": 1,
    }

    def answered() -> bool | None:
        return stack.client.post("/v1/chat/completions", json=body).is_success or None

    until("an answer", answered, _PATIENCE, pause=0.02)


def _measure_hosts(stack: Stack, report: Report) -> None:
    from_last_heard: list[float] = []
    from_kill: list[float] = []
    for _ in range(HOSTS):
        heard, killed = _lost_host(stack)
        from_last_heard.append(heard)
        from_kill.append(killed)
    name = "from a dead host's last status to its replicas placed elsewhere"
    lease, target = "the lease", Target("at most", 1, of="difference")
    report.add(
        Figure(f"{name}, median", statistics.median(from_last_heard), "s", lease, _LEASE_S, target),
        Figure(f"{name}, slowest", max(from_last_heard), "s", lease, _LEASE_S, target),
        Figure(
            "from its kill to answers from elsewhere, median", statistics.median(from_kill), "s"
        ),
    )


def _lost_host(stack: Stack) -> tuple[float, float]:
    """Kill a host; return the seconds from its last status to placements, from the kill to tokens.

    Both are those of the slowest of its replicas.
    """
    stays = _nodes(stack)[0]["node_id"]
    with _second_host(stack) as (node_id, agent):
        stack.call("POST", f"/v0/nodes/{stays}/cordon")
        endpoints = [stack.deploy(f"{node_id[-6:]}-{number}") for number in range(REPLICAS)]
        stack.call("POST", f"/v0/nodes/{stays}/uncordon")
        there = {one["node_id"] for endpoint in endpoints for one in endpoint["replicas"]}
        if there != {node_id}:
            raise RuntimeError(f"replicas are on {there}, not on {node_id}")
        _kill_host(agent, _folder(stack))
        began = time.monotonic()
        placed = [_placed_elsewhere(stack, endpoint) for endpoint in endpoints]
        (heard,) = (
            datetime.fromisoformat(node["heard_at"])
            for node in _nodes(stack)
            if node["node_id"] == node_id
        )
        for endpoint in endpoints:
            _until_answered(stack, endpoint)
        seconds = time.monotonic() - began
    for endpoint in endpoints:
        stack.call("DELETE", f"{_ENDPOINTS}/{endpoint['endpoint_id']}")
    _until_nothing_runs(stack)
    return (max(placed) - heard).total_seconds(), seconds


def _placed_elsewhere(stack: Stack, endpoint: Json) -> datetime:
    """Return when its second replica was placed, by the log's clock."""
    path = f"{_ENDPOINTS}/{endpoint['endpoint_id']}/events"

    def placed() -> datetime | None:
        events = stack.call("GET", path)["data"]
        times = sorted(one["time"] for one in events if one["name"] == "ReplicaPlaced")
        return datetime.fromisoformat(times[1]) if len(times) > 1 else None

    return until("the replica to be placed elsewhere", placed, _PATIENCE, pause=0.2)


@contextmanager
def _second_host(stack: Stack) -> Iterator[tuple[str, psutil.Popen]]:
    """Run another agent on this machine, again and again; yield its node and its process."""
    folder = _folder(stack)
    environment = {
        **stack.processes()["agent"].environ(),
        "ENGINESHED_STATE_DIR": str(folder),
        "ENGINESHED_METRICS_LISTEN": "",
    }
    with child(
        python_module("engineshed.agent"), env=environment, log=stack.directory / "second.log"
    ) as agent:
        try:
            yield until("the second host", lambda: _joined(stack), _PATIENCE), agent
        finally:
            _kill_host(agent, folder)


def _joined(stack: Stack) -> str | None:
    """Return the second node, once both are heard."""
    nodes = _nodes(stack)
    heard = len(nodes) == 2 and all(node["status"] == "joined" for node in nodes)
    return str(nodes[1]["node_id"]) if heard else None


def _kill_host(agent: psutil.Popen, folder: Path) -> None:
    """Kill an agent and its replicas as a power cut does."""
    victims = [agent, *_of_replicas(folder)]
    for process in victims:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue


def _of_replicas(folder: Path, replica_id: str = "") -> list[psutil.Process]:
    """Return the fronts and Tritons of the replicas below a folder: of all, or one."""
    replicas = str(folder / "agent" / "replicas" / replica_id)
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if any(replicas in part for part in process.info["cmdline"] or [])
    ]


def _is_triton(process: psutil.Process) -> bool:
    return "tritonserver" in process.cmdline()[0]


def _folder(stack: Stack) -> Path:
    return stack.directory / "second"


def _nodes(stack: Stack) -> list[Json]:
    """Return the hosts in the order in which they joined first."""
    found: list[Json] = stack.call("GET", "/v0/nodes")["data"]
    return sorted(found, key=lambda node: str(node["joined_at"]))


def _remove(stack: Stack, endpoint: Json) -> None:
    """Terminate an endpoint, and wait until nothing of it takes any time."""
    stack.call("DELETE", f"{_ENDPOINTS}/{endpoint['endpoint_id']}")
    _until_nothing_runs(stack)


def _until_nothing_runs(stack: Stack) -> None:
    replicas = stack.directory / "agent" / "replicas"
    until("all replicas to be gone", lambda: not any(replicas.iterdir()) or None, _PATIENCE)


if __name__ == "__main__":
    main()
