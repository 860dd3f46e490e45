"""A checkpoint of a billion random parameters on a real GPU: the whole stack beside transformers.

The stack is that of `shed up`: NATS, catalog, scheduler, agent, gateway, and Triton from the wheel
with the `torch` back end. The baselines are `generate` on one static batch of the same prompts, and
transformers' own continuous batching, in a process of their own on the same GPU, taking turns.

BENCH_GPU_ANYWHERE=1 tries the program where there is no GPU, with BENCH_GPU_LAYERS=2 and
BENCH_GPU_HIDDEN=256, say.
"""

import asyncio
import json
import os
import random
import re
import statistics
import string
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Final

import httpx
from benchmarks.harness import Figure, Report, percentile, python_module
from benchmarks.parts.stack import Json, Stack, running_stack, until

from engineshed.agent.gpus import Found, find_gpus
from engineshed.gpus import usage_of

LAYERS: Final = int(os.environ.get("BENCH_GPU_LAYERS", "16"))
HIDDEN: Final = int(os.environ.get("BENCH_GPU_HIDDEN", "2048"))
ROUNDS: Final = int(os.environ.get("BENCH_GPU_ROUNDS", "3"))
TOKENS: Final = int(os.environ.get("BENCH_GPU_TOKENS", "128"))
ANYWHERE: Final = bool(os.environ.get("BENCH_GPU_ANYWHERE"))
AT_ONCE: Final = 32
_LETTERS: Final = 300  # of each prompt
_PATIENCE: Final = 300.0


@dataclass(frozen=True, slots=True)
class Round:
    """What a number of requests took that were begun together."""

    tokens_per_second: float
    first_token_ms: float  # the median's


def main() -> None:
    """Measure and report, where there is a GPU."""
    found = find_gpus()
    if found is None and not ANYWHERE:
        print("there is no GPU here: nothing to measure")
        return
    report = Report("gpu")
    report.note(_seen(found))
    with tempfile.TemporaryDirectory(prefix="engineshed-bench-") as name:
        folder = Path(name)
        prompts = _prompts(folder / "prompts.json")
        made = python_module(
            "benchmarks.parts.random_llama", str(folder / "model"), str(LAYERS), str(HIDDEN)
        )
        parameters = int(subprocess.run(made, check=True, stdout=subprocess.PIPE).stdout)
        with running_stack(folder / "stack") as stack:
            before = _memory_used(found)
            checkpoint_id = _registered(stack, folder / "model")
            endpoint, seconds = _served(stack, checkpoint_id)
            report.add(Figure("from POST to running, engine built in it", seconds, "s"))
            _remove(stack, endpoint)
            endpoint, seconds = _served(stack, checkpoint_id)
            report.add(Figure("from POST to running, engine in the cache", seconds, "s"))
            if found:
                taken = (_memory_used(found) - before) / 1e9
                report.add(Figure("GPU memory that the replica takes", taken, "GB"))
            with _bare(folder) as bare:
                _measure(report, stack, endpoint["routing_key"], prompts, bare)
            said = asyncio.run(_said_under_load(stack, endpoint["routing_key"], prompts))
    report.note(f"{parameters:,} random parameters in bfloat16, {TOKENS} tokens of answer each")
    report.note(f"the agent's metrics meanwhile: {said}")
    report.note(f"PyTorch {version('torch')}, transformers {version('transformers')}")
    report.finish()


def _measure(report: Report, stack: Stack, model: str, prompts: list[str], bare: "Bare") -> None:
    """Take turns: a round of ours, then one of each baseline; the first of each is left out."""
    for requests in (1, AT_ONCE):
        ours, static, batched, first = [], [], [], []
        for _ in range(ROUNDS + 1):
            ours.append(asyncio.run(_round(stack, model, prompts[:requests])))
            static.append(bare.tokens_per_second("generate", requests, TOKENS))
            batched.append(bare.tokens_per_second("generate_batch", requests, TOKENS))
            first.append(1000 * requests / bare.tokens_per_second("generate", requests, 1))
        rate = statistics.median(one.tokens_per_second for one in ours[1:])
        shown = f"{requests} at once" if requests > 1 else "one request at a time"
        wait = statistics.median(one.first_token_ms for one in ours[1:])
        report.add(
            Figure(shown, rate, "tokens/s", "generate", statistics.median(static[1:])),
            Figure(shown, rate, "tokens/s", "generate_batch", statistics.median(batched[1:])),
            Figure(
                f"{shown}: until the first token, median",
                wait,
                "ms",
                "generate of one token",
                statistics.median(first[1:]),
            ),
        )


def _seen(found: Found | None) -> str:
    if found is None:
        return "no GPU: this only tries the program"
    gpu = found.gpus[0]
    return (
        f"NVML saw {len(found.gpus)} x {gpu.product} ({gpu.gpu_type}), {gpu.memory_bytes:,} bytes "
        f"usable, compute capability {gpu.compute_capability}, driver {found.driver}"
    )


def _memory_used(found: Found | None) -> int:
    usage = usage_of(found.gpus[0].uuid) if found else None
    return usage.memory_bytes if usage else 0


def _prompts(file: Path) -> list[str]:
    dice = random.Random(0)
    prompts = ["".join(dice.choices(string.ascii_lowercase, k=_LETTERS)) for _ in range(AT_ONCE)]
    file.write_text(json.dumps(prompts))
    return prompts


def _registered(stack: Stack, checkpoint: Path) -> str:
    """Return the id of the checkpoint once it is registered."""
    asked = {"name": "random-llama", "uri": checkpoint.as_uri()}
    created = stack.call("POST", "/v0/checkpoints", asked)
    path = f"/v0/checkpoints/{created['checkpoint_id']}"

    def registered() -> bool | None:
        found = stack.call("GET", path)
        if found["status"] == "failed":
            raise RuntimeError(f"the registration failed: {found}")
        return found["status"] == "registered" or None

    until("the checkpoint", registered, _PATIENCE, pause=0.05)
    return str(created["checkpoint_id"])


def _served(stack: Stack, checkpoint_id: str) -> tuple[Json, float]:
    """Return an endpoint of the checkpoint, and how long it took to run once it was asked for."""
    began = time.monotonic()
    body = {"name": "random-llama", "checkpoint_id": checkpoint_id}
    endpoint = stack.call("POST", "/v0/dedicated_endpoints", body)
    running = stack.until_running(endpoint["endpoint_id"])
    return running, time.monotonic() - began


def _remove(stack: Stack, endpoint: Json) -> None:
    """Terminate an endpoint, and wait until nothing of it runs."""
    stack.call("DELETE", f"/v0/dedicated_endpoints/{endpoint['endpoint_id']}")

    def gone() -> bool | None:
        return not any((stack.directory / "agent" / "replicas").iterdir()) or None

    until("the replica to be gone", gone, _PATIENCE)


async def _round(stack: Stack, model: str, prompts: list[str]) -> Round:
    headers = {"authorization": stack.client.headers["authorization"]}
    limits = httpx.Limits(max_connections=AT_ONCE)
    async with httpx.AsyncClient(
        base_url=stack.client.base_url, headers=headers, timeout=300, trust_env=False, limits=limits
    ) as client:
        began = time.monotonic()
        answers = await asyncio.gather(*(_answer(client, model, prompt) for prompt in prompts))
        seconds = time.monotonic() - began
    tokens = sum(tokens for tokens, _ in answers)
    return Round(tokens / seconds, 1000 * percentile([wait for _, wait in answers], 50))


async def _answer(client: httpx.AsyncClient, model: str, prompt: str) -> tuple[int, float]:
    """Return how many tokens an answer has, and after how many seconds the first one came."""
    body = {
        "model": model,
        "prompt": prompt,
        "max_tokens": TOKENS,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    began, first, tokens = time.monotonic(), 0.0, 0
    async with client.stream("POST", "/v1/completions", json=body) as answer:
        if not answer.is_success:
            raise RuntimeError(f"{answer.status_code}: {(await answer.aread()).decode()}")
        async for line in answer.aiter_lines():
            if not line.startswith("data: {"):
                continue
            event = json.loads(line.removeprefix("data: "))
            if "error" in event:
                raise RuntimeError(f"the stream broke off: {event['error']}")
            first = first or time.monotonic() - began
            if event.get("usage"):
                tokens = event["usage"]["completion_tokens"]
    return tokens, first


class Bare:
    """Transformers alone, in a process of its own."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def tokens_per_second(self, how: str, requests: int, tokens: int) -> float:
        """Return how fast it generates that many tokens for each of so many prompts."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        asked = {"how": how, "requests": requests, "tokens": tokens}
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"transformers alone ended at {asked}")
        answer = json.loads(line)
        return float(answer["tokens"] / answer["seconds"])


@contextmanager
def _bare(folder: Path) -> Iterator[Bare]:
    model, prompts = str(folder / "model"), str(folder / "prompts.json")
    argv = python_module("benchmarks.parts.bare_transformers", model, prompts)
    with (folder / "bare.log").open("w") as log:
        process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
        )
    try:
        yield Bare(process)
    except RuntimeError:
        sys.stderr.write((folder / "bare.log").read_text()[-4000:])
        raise
    finally:
        process.kill()
        process.communicate()


async def _said_under_load(stack: Stack, model: str, prompts: list[str]) -> str:
    """Return what the agent tells Prometheus of its GPUs while they work, at the busiest look."""
    port = json.loads((stack.directory / "ports.json").read_text())["agent-metrics"]
    token = (stack.directory / "credentials" / "metrics.token").read_text().strip()
    said: list[str] = []
    working = asyncio.create_task(_round(stack, model, prompts))
    async with httpx.AsyncClient(
        headers={"authorization": f"Bearer {token}"}, trust_env=False
    ) as client:
        while not working.done():
            answer = await client.get(f"http://127.0.0.1:{port}/metrics")
            lines = answer.raise_for_status().text.splitlines()
            of_gpus = [line for line in lines if line.startswith("engineshed_agent_gpu_")]
            said.append(re.sub(r',uuid="[^"]*"', "", "; ".join(of_gpus)))
            await asyncio.sleep(0.2)
    await working
    return max(said, key=lambda text: float(text.rpartition(" ")[2] or 0)) or "none"


if __name__ == "__main__":
    main()
