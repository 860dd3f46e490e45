"""What a stack costs that has nothing to do: memory and CPU of its five processes.

The memory is the proportional set size, so what the processes share is counted once. The baseline
of both is the least that such parts could be: as many Python processes that serve gRPC and know no
method, and the same NATS without a client.
"""

import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import psutil
from benchmarks.harness import (
    Figure,
    Report,
    Target,
    child,
    cpu_seconds,
    free_port,
    pss_bytes,
    python_module,
    until_listening,
)
from benchmarks.parts.stack import PARTS, SUPERVISOR, running_stack

from engineshed.bus.embedded import command as nats_command
from engineshed.bus.embedded import write_config

SETTLE_SECONDS: Final = float(os.environ.get("BENCH_SETTLE_SECONDS", "30"))
MEASURED_SECONDS: Final = float(os.environ.get("BENCH_IDLE_SECONDS", "120"))
MB: Final = 1e6


def main() -> None:
    """Measure and report."""
    report = Report("idle")
    with tempfile.TemporaryDirectory(prefix="engineshed-bench-") as folder:
        with running_stack(Path(folder) / "stack") as stack:
            memory, load = _measured(stack.processes())
        with _bare_parts(Path(folder)) as processes:
            bare_memory, bare_load = _measured(processes)
    report.add(
        Figure(
            "memory (PSS) of catalog, scheduler, agent, gateway and NATS",
            sum(memory[part] for part in PARTS),
            "MB",
            "bare gRPC servers, NATS",
            sum(bare_memory.values()),
            Target("at most", 400, of="value"),
        ),
        Figure(
            "CPU of the five",
            sum(load[part] for part in PARTS),
            "% of a core",
            "bare gRPC servers, NATS",
            sum(bare_load.values()),
            Target("at most", 2, of="value"),
        ),
    )
    for part in (*PARTS, SUPERVISOR):
        report.add(
            Figure(f"memory (PSS) of {part}", memory[part], "MB"),
            Figure(f"CPU of {part}", load[part], "% of a core"),
        )
    report.note(
        f"CPU over {MEASURED_SECONDS:g} s, from {SETTLE_SECONDS:g} s after the start on; memory at "
        "the end of that"
    )
    report.finish()


def _measured(processes: Mapping[str, psutil.Process]) -> tuple[dict[str, float], dict[str, float]]:
    """Return the memory in MB and the load in percent of a core, by process."""
    time.sleep(SETTLE_SECONDS)
    before = {name: cpu_seconds(process.pid) for name, process in processes.items()}
    began = time.monotonic()
    time.sleep(MEASURED_SECONDS)
    passed = time.monotonic() - began
    used = {name: cpu_seconds(one.pid) - before[name] for name, one in processes.items()}
    return (
        {name: pss_bytes(process.pid) / MB for name, process in processes.items()},
        {name: 100 * seconds / passed for name, seconds in used.items()},
    )


@contextmanager
def _bare_parts(folder: Path) -> Iterator[dict[str, psutil.Process]]:
    port = free_port()
    write_config(folder, port)
    with ExitStack() as running:
        nats = running.enter_context(child(nats_command(folder)))
        until_listening(port, nats)
        processes: dict[str, psutil.Process] = {"nats": psutil.Process(nats.pid)}
        for number in range(len(PARTS) - 1):
            port = free_port()
            server = child(python_module("benchmarks.parts.bare_grpc", str(port)))
            process = running.enter_context(server)
            processes[f"gRPC server {number}"] = psutil.Process(process.pid)
            until_listening(port)
        yield processes


if __name__ == "__main__":
    main()
