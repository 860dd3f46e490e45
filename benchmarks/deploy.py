"""From the request for an endpoint to its first token, when the engine is built already.

The baseline is the same Triton, started by hand: the command line of the replica's front, a copy of
the model repository that the agent rendered, the model loaded, and one token over gRPC. What ours
takes more is what the platform does: admit, place, tell the agent, find the engine, start the
front, load the tokenizer, test the engine, publish the route, and pass the request through.

A second replica on the node must not hash or copy the checkpoint again. So what the agent and its
builds read and write meanwhile is counted, by the kernel (/proc/<pid>/io), for a checkpoint that is
large beside everything else. Triton's own loading of the weights is not in it.
"""

import json
import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Final

import psutil
from benchmarks.harness import Figure, Report, Target, python_module
from benchmarks.parts.by_hand import TritonByHand
from benchmarks.parts.stack import SAMPLE, Json, Stack, running_stack, until

ROUNDS: Final = int(os.environ.get("BENCH_DEPLOY_ROUNDS", "5"))
LAYERS: Final = int(os.environ.get("BENCH_DEPLOY_LAYERS", "8"))  # of the large checkpoint
HIDDEN: Final = int(os.environ.get("BENCH_DEPLOY_HIDDEN", "1024"))

_PATIENCE: Final = 120.0
_PAUSE: Final = 0.02  # between two questions whether it answers yet


def main() -> None:
    """Measure and report."""
    report = Report("deploy")
    ours: list[float] = []
    by_hand: list[float] = []
    with tempfile.TemporaryDirectory(prefix="engineshed-bench-") as folder:
        state, models = Path(folder) / "stack", Path(folder) / "models"
        with running_stack(state) as stack:
            endpoint = stack.deploy("first")  # builds the engine
            replica = state / "agent" / "replicas" / endpoint["replicas"][0]["replica_id"]
            triton = TritonByHand.like(replica, models)
            _remove(stack, endpoint)
            for number in range(ROUNDS):
                by_hand.append(triton.first_token_seconds())
                ours.append(_deployed(stack, f"number-{number}"))
            large = Path(folder) / "large"
            weights = _make_checkpoint(large)
            built, found = _moved(stack, large)
    name, baseline = "from POST to the first token, warm cache", "Triton by hand"
    target = Target("at most", 2, of="difference")
    middle, middle_by_hand = statistics.median(ours), statistics.median(by_hand)
    report.add(
        Figure(f"{name}, median", middle, "s", baseline, middle_by_hand, target),
        Figure(f"{name}, best", min(ours), "s", baseline, min(by_hand), target),
    )
    report.add(
        Figure(
            f"read and written for a second replica, weights of {weights / 1e6:.0f} MB",
            found / 1e6,
            "MB",
            "for the first, whose engine was built",
            built / 1e6,
            Target("at most", 0.05 * weights / 1e6, of="value"),
        )
    )
    report.note(f"{ROUNDS} rounds of both in turn, with the sample model")
    report.note("read and written by the agent and its builds; pages that are mapped do not count")
    report.finish()


def _make_checkpoint(folder: Path) -> int:
    """Write a checkpoint of random weights; return their size in bytes."""
    arguments = (str(folder), str(LAYERS), str(HIDDEN))
    made = python_module("benchmarks.parts.random_llama", *arguments)
    subprocess.run(made, check=True, stdout=subprocess.DEVNULL)
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def _moved(stack: Stack, checkpoint: Path) -> tuple[int, int]:
    """Return the bytes that the agent and its builds moved for a replica, and for a second one."""
    created = stack.call("POST", "/v0/checkpoints", {"name": "large", "uri": checkpoint.as_uri()})
    path = f"/v0/checkpoints/{created['checkpoint_id']}"
    until(
        "the checkpoint",
        lambda: stack.call("GET", path)["status"] == "registered" or None,
        _PATIENCE,
    )
    body = {"checkpoint_id": created["checkpoint_id"], "serving": {"max_context": 256}}
    moved = []
    for name in ("large-1", "large-2"):
        meter = _Meter(stack.processes()["agent"])
        endpoint = stack.call("POST", "/v0/dedicated_endpoints", {"name": name, **body})
        while stack.call("GET", f"/v0/dedicated_endpoints/{endpoint['endpoint_id']}")["status"] in (
            "queued",
            "provisioning",
        ):
            meter.read()
            time.sleep(_PAUSE)
        stack.until_running(endpoint["endpoint_id"])
        moved.append(meter.read())
    return moved[0], moved[1]


class _Meter:
    """What an agent and its builds have read and written since now, by whatever means but maps."""

    def __init__(self, agent: psutil.Process) -> None:
        self._agent = agent
        self._builds: dict[int, int] = {}  # what each had when it was last seen
        self._at_start = _transferred(agent)

    def read(self) -> int:
        """Look at all of them, and return the bytes so far."""
        for child in self._agent.children(recursive=True):
            try:
                if any(word.endswith("torch.build") for word in child.cmdline()):
                    self._builds[child.pid] = _transferred(child)
            except psutil.NoSuchProcess:
                continue  # it has ended just now
        return _transferred(self._agent) - self._at_start + sum(self._builds.values())


def _transferred(process: psutil.Process) -> int:
    counted = process.io_counters()
    return int(counted.read_chars + counted.write_chars)


def _deployed(stack: Stack, name: str) -> float:
    began = time.monotonic()
    created = stack.call("POST", "/v0/dedicated_endpoints", {"name": name, **SAMPLE})
    until("a token", lambda: _first_token(stack, created["routing_key"]), _PATIENCE, pause=_PAUSE)
    seconds = time.monotonic() - began
    _remove(stack, created)
    return seconds


def _first_token(stack: Stack, routing_key: str) -> bool | None:
    """Return True once the first token of an answer is here; None: the endpoint is not ready."""
    body = {
        "model": routing_key,
        "messages": [{"role": "user", "content": "Hello"}],
        "max_tokens": 1,
        "stream": True,
    }
    with stack.client.stream("POST", "/v1/chat/completions", json=body) as answer:
        if answer.status_code in (404, 503):
            answer.read()
            if answer.json()["error"]["code"] == "endpoint_failed":
                raise RuntimeError(f"the endpoint failed: {answer.text}")
            return None
        answer.raise_for_status()
        for line in answer.iter_lines():
            if line.startswith("data: {") and _has_text(json.loads(line.removeprefix("data: "))):
                return True
    raise RuntimeError("the answer ended without a token")


def _has_text(event: Json) -> bool:
    return any(
        choice["delta"].get("content") or choice["finish_reason"] for choice in event["choices"]
    )


def _remove(stack: Stack, endpoint: Json) -> None:
    """Terminate an endpoint, and wait until nothing of it takes any time."""
    path = f"/v0/dedicated_endpoints/{endpoint['endpoint_id']}"
    stack.call("DELETE", path)

    def gone() -> bool | None:
        return not any((stack.directory / "agent" / "replicas").iterdir()) or None

    until("the replica to be gone", gone, _PATIENCE)


if __name__ == "__main__":
    main()
