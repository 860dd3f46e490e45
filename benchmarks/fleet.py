"""A scheduler with 200 agents and 1,000 endpoints: from create to placed, reconnecting, memory.

The scheduler is a real process with SQLite and NATS; the catalog is faked, over real gRPC. One load
process has all agents, each with a connection of its own over the real protocol, and the callers.
"""

import argparse
import asyncio
import json
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Final

from benchmarks.harness import (
    ROOT,
    Figure,
    Report,
    Target,
    cpu_seconds,
    percentile,
    pss_bytes,
    python_module,
)
from benchmarks.parts.fleet_load import Found, Size
from tests.service.scheduler import scripted_agent
from tests.service.scheduler.stack import Stack

from engineshed import ids

QUIET_SECONDS: Final = 10.0
SAMPLE_SECONDS: Final = 0.25
MB: Final = 1e6


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--agents", type=int, default=200)
    parser.add_argument("--endpoints", type=int, default=1_000)
    parser.add_argument("--callers", type=int, default=16, help="who create at the same time")
    arguments = parser.parse_args()
    size = Size(
        agents=arguments.agents,
        gpus=16,
        endpoints=arguments.endpoints,
        callers=arguments.callers,
        scaled=arguments.endpoints // 5,
        replicas=11,
    )
    report = Report("fleet")
    with tempfile.TemporaryDirectory(prefix="engineshed-bench-") as folder:
        stack = Stack(Path(folder), ENGINESHED_LOG_LEVEL="warning")
        try:
            stack.start()
            stack.wait_ready()
            _measure(report, stack, size)
        finally:
            stack.close()
    report.finish()


def _measure(report: Report, stack: Stack, size: Size) -> None:
    assert stack.process is not None
    pid = stack.process.pid
    org_id = ids.new(ids.ORGANIZATION)
    token = stack.catalog.token(org_id, "admin")
    asyncio.run(stack.publish_tokens())
    load = python_module(
        "benchmarks.parts.fleet_load",
        stack.target,
        scripted_agent.TOKEN,
        token,
        stack.catalog.checkpoint(org_id),
        json.dumps(asdict(size)),
    )
    pipe = subprocess.PIPE
    with (
        _peak_memory(pid) as peaks,
        subprocess.Popen(load, stdin=pipe, stdout=pipe, cwd=ROOT, text=True) as process,
    ):
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise RuntimeError("the load ended early; see the error above")
        found = Found(**json.loads(line))
        cpu = cpu_seconds(pid)
        time.sleep(QUIET_SECONDS)  # until all events are published
        before = cpu_seconds(pid)
        time.sleep(QUIET_SECONDS)
        load_at_rest = 100 * (cpu_seconds(pid) - before) / QUIET_SECONDS
        process.communicate()  # it ends when its input does
    report.add(*_figures(found, size))
    report.add(
        Figure(
            "memory (PSS) of the scheduler, at the most",
            max(peaks) / MB,
            "MB",
            target=Target("at most", 500, of="value"),
        ),
        Figure("CPU time of the scheduler for all of that", cpu, "s"),
        Figure("CPU of the scheduler, all ready, nothing happens", load_at_rest, "% of a core"),
    )
    report.note(
        f"{size.agents} agents with {size.gpus} GPUs each; {size.endpoints:,} endpoints of one "
        f"replica created by {size.callers} callers, then {size.scaled} of them scaled to "
        f"{size.replicas}; no baseline: nothing else does the same"
    )


def _figures(found: Found, size: Size) -> Iterator[Figure]:
    for percent in (50, 99):
        yield Figure(
            f"from the call to create to the placement seen by the agent, p{percent}",
            1000 * percentile(found.placing, percent),
            "ms",
            "the call to create alone",
            1000 * percentile(found.answering, percent),
            Target("at most", 1_000, of="value") if percent > 50 else None,
        )
    yield Figure(
        f"creating {size.endpoints:,} endpoints, until the last is placed",
        size.endpoints / found.creating,
        "endpoints/s",
    )
    yield Figure(
        f"placing {found.placements:,} replicas, from the first call to the last agent's sight",
        found.placements / found.scaling,
        "placements/s",
        target=Target("at least", 1_000, of="value"),
    )
    yield Figure(
        f"{size.agents} new agents at once, until all have their desired state", found.joining, "s"
    )
    yield Figure(
        f"{size.agents} agents reconnecting at once, until all have it, slowest of "
        f"{len(found.reconnecting)}",
        max(found.reconnecting),
        "s",
        target=Target("at most", 5, of="value"),
    )


@contextmanager
def _peak_memory(pid: int) -> Iterator[list[int]]:
    """Note how much memory a process has, again and again during the block."""
    samples = [pss_bytes(pid)]
    over = threading.Event()

    def sample() -> None:
        while not over.wait(SAMPLE_SECONDS):
            samples.append(pss_bytes(pid))

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield samples
    finally:
        over.set()
        thread.join()


if __name__ == "__main__":
    main()
