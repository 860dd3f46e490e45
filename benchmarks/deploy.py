"""From the request for an endpoint to its first token, when the engine is built already.

The baseline is the same Triton, started by hand: the command line of the replica's front, a copy of
the model repository that the agent rendered, the model loaded, and one token over gRPC. What ours
takes more is what the platform does: admit, place, tell the agent, find the engine, start the
front, load the tokenizer, test the engine, publish the route, and pass the request through.
"""

import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Final

from benchmarks.harness import Figure, Report, Target
from benchmarks.parts.by_hand import TritonByHand
from benchmarks.parts.stack import SAMPLE, Json, Stack, running_stack, until

ROUNDS: Final = int(os.environ.get("BENCH_DEPLOY_ROUNDS", "5"))

_PATIENCE: Final = 120.0
_PAUSE: Final = 0.02  # between two questions whether it answers yet


def main() -> None:
    """Measure and report."""
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
    report = Report("deploy")
    name, baseline = "from POST to the first token, warm cache", "Triton by hand"
    target = Target("at most", 3, of="difference")
    middle, middle_by_hand = statistics.median(ours), statistics.median(by_hand)
    report.add(
        Figure(f"{name}, median", middle, "s", baseline, middle_by_hand, target),
        Figure(f"{name}, best", min(ours), "s", baseline, min(by_hand), target),
    )
    report.note(f"{ROUNDS} rounds of both in turn, with the sample model")
    report.finish()


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
