"""How long `shed up` takes on a state directory that is in use, until its gateway is ready.

The directory has an endpoint that ran when the stack was stopped, and some thousand events. The
baseline is what nobody can start faster: NATS and five Python processes at once, one for each part
and the supervisor, that import the libraries of their parts and nothing of ours.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from benchmarks.harness import Figure, Report, Target, child, free_port, until_listening
from benchmarks.parts.stack import Stack, running_stack

from engineshed.bus.embedded import command as nats_command
from engineshed.bus.embedded import write_config

ROUNDS: Final = int(os.environ.get("BENCH_START_ROUNDS", "5"))
SCHEDULER_EVENTS: Final = int(os.environ.get("BENCH_START_EVENTS", "2000"))
CATALOG_EVENTS: Final = SCHEDULER_EVENTS // 2

_COMMON: Final = "asyncio, grpc.aio, nats, pydantic_settings, structlog, uvloop"
_LIBRARIES: Final = {
    "shed up": "asyncio, httpx, rich.console, typer",
    "catalog": f"{_COMMON}, sqlalchemy",
    "scheduler": f"{_COMMON}, sqlalchemy",
    "agent": f"{_COMMON}, aiohttp",
    "gateway": f"{_COMMON}, aiohttp, fastapi, uvicorn",
}


def main() -> None:
    """Measure and report."""
    report = Report("start")
    seconds: list[float] = []
    bare: list[float] = []
    with tempfile.TemporaryDirectory(prefix="engineshed-bench-") as folder:
        state = Path(folder) / "stack"
        with running_stack(state) as stack:
            events = _use(stack)
        for number in range(ROUNDS):
            bare.append(_bare_start(Path(folder) / f"bare-{number}"))
            with running_stack(state) as stack:
                seconds.append(stack.ready_seconds)
                # Every round starts with an endpoint that ran.
                for endpoint in stack.call("GET", "/v0/dedicated_endpoints")["data"]:
                    stack.until_running(endpoint["endpoint_id"])
    report.add(
        Figure(
            "from shed up to a ready gateway, median",
            statistics.median(seconds),
            "s",
            "NATS and imports",
            statistics.median(bare),
            Target("at most", 5, of="value"),
        ),
        Figure("the slowest of them", max(seconds), "s"),
        Figure("the quickest of them", min(seconds), "s", "NATS and imports", min(bare)),
    )
    report.note(f"{ROUNDS} starts with one running endpoint and {events} events or more")
    report.finish()


def _use(stack: Stack) -> int:
    """Leave a running endpoint and a history; return how many events that made at least."""
    path = f"/v0/dedicated_endpoints/{stack.deploy('measured')['endpoint_id']}"
    with ThreadPoolExecutor(8) as threads:

        def describe(number: int) -> None:
            stack.call("PATCH", path, {"description": f"Number {number}"})

        def issue(number: int) -> None:
            body = {"name": f"number-{number}", "scopes": ["inference"]}
            token = stack.call("POST", "/v0/tokens", body)
            stack.call("DELETE", f"/v0/tokens/{token['token_id']}")

        list(threads.map(describe, range(SCHEDULER_EVENTS)))
        list(threads.map(issue, range(CATALOG_EVENTS // 2)))
    return SCHEDULER_EVENTS + CATALOG_EVENTS


def _bare_start(folder: Path) -> float:
    folder.mkdir()
    port = free_port()
    write_config(folder, port)
    with ExitStack() as running:
        began = time.monotonic()
        nats = running.enter_context(child(nats_command(folder)))
        imports = [
            running.enter_context(subprocess.Popen([sys.executable, "-c", f"import {libraries}"]))
            for libraries in _LIBRARIES.values()
        ]
        until_listening(port, nats)
        for process in imports:
            process.wait()
        return time.monotonic() - began


if __name__ == "__main__":
    main()
