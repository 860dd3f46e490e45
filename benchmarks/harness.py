"""What every benchmark needs: figures beside their baselines, child processes, what they cost.

A program makes a `Report`, adds a `Figure` for each thing that it measured and calls `finish`,
which prints the table and writes `benchmarks/results/<name>.json`.
"""

import ast
import json
import math
import os
import platform
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal

import psutil
from rich.console import Console
from rich.table import Table

from engineshed.processes.leash import on_a_leash

ROOT: Final = Path(__file__).resolve().parent.parent
RESULTS: Final = ROOT / "benchmarks" / "results"
# The peers' own environment; `make bench` makes it.
PEERS: Final = ROOT / ".venv-bench"

_NO_PROGRAMS: Final = ("__main__", "harness", "report")

START_SECONDS: Final = 60.0
STOP_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class Target:
    """What a figure should reach."""

    bound: Literal["at least", "at most"]
    limit: float
    # Of the value itself, of value / baseline, or of value - baseline.
    of: Literal["value", "ratio", "difference"] = "ratio"

    def met_by(self, number: float) -> bool:
        """Tell whether `number` is on the right side of the limit, which itself is."""
        return number >= self.limit if self.bound == "at least" else number <= self.limit

    def describe(self, unit: str) -> str:
        """Return it as text, e.g. "at least 0.6 x"."""
        match self.of:
            case "value":
                return f"{self.bound} {amount(self.limit)} {unit}"
            case "ratio":
                return f"{self.bound} {amount(self.limit)} x"
            case "difference":
                return f"{self.bound} {amount(self.limit)} {unit} more"


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured number, beside what the same run measured of something to compare it with."""

    name: str
    value: float
    unit: str
    baseline: str = ""  # what the baseline is; empty: there is none
    baseline_value: float | None = None
    target: Target | None = None

    @property
    def ratio(self) -> float | None:
        """The value as a multiple of the baseline's."""
        return self.value / self.baseline_value if self.baseline_value else None

    @property
    def met(self) -> bool | None:
        """Whether the target is reached; None: there is none, or nothing to compare with."""
        if self.target is None:
            return None
        if self.target.of == "value":
            return self.target.met_by(self.value)
        if self.target.of == "ratio":
            return None if self.ratio is None else self.target.met_by(self.ratio)
        if self.baseline_value is None:
            return None
        return self.target.met_by(self.value - self.baseline_value)

    def as_json(self) -> dict[str, Any]:
        """Return what goes into the file."""
        return {
            **asdict(self),
            "target": self.target.describe(self.unit) if self.target else None,
            "ratio": self.ratio,
            "met": self.met,
        }


@dataclass(slots=True)
class Report:
    """The figures of one program, and where and when they were measured."""

    name: str  # the program's
    figures: list[Figure] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    _began: datetime = field(default_factory=lambda: datetime.now(UTC))
    _load_at_start: tuple[float, float, float] = field(default_factory=os.getloadavg)

    def add(self, *figures: Figure) -> None:
        """Take figures in."""
        self.figures += figures

    def note(self, text: str) -> None:
        """Say what the figures do not, e.g. that a peer is not installed."""
        self.notes.append(text)

    def finish(self) -> None:
        """Print the table and write the file."""
        console = Console(width=None if sys.stdout.isatty() else 150)
        console.print(self._table())
        for text in self.notes:
            console.print(f"note: {text}", markup=False)
        RESULTS.mkdir(exist_ok=True)
        path = RESULTS / f"{self.name}.json"
        path.write_text(json.dumps(self._as_json(), indent=2) + "\n")
        console.print(f"written to {path.relative_to(ROOT)}", markup=False)

    def _table(self) -> Table:
        table = Table(title=self.name, title_justify="left")
        for heading in ("figure", "value", "baseline", "ratio", "target", "met"):
            table.add_column(heading, justify="left" if heading == "figure" else "right")
        for one in self.figures:
            table.add_row(*cells(one.as_json()))
        return table

    def _as_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "began_at": self._began.isoformat(timespec="seconds"),
            "ended_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "commit": _commit(),
            "machine": _machine(),
            "python": platform.python_version(),
            "load_average": {
                "start": [round(one, 2) for one in self._load_at_start],
                "end": [round(one, 2) for one in os.getloadavg()],
            },
            "figures": [one.as_json() for one in self.figures],
            "notes": self.notes,
        }


def cells(figure: Mapping[str, Any]) -> tuple[str, str, str, str, str, str]:
    """Return the cells of a table's row for a figure as it is in the file."""
    unit, ratio, value = figure["unit"], figure["ratio"], figure["baseline_value"]
    baseline = "" if value is None else f"{amount(value)} ({figure['baseline']})"
    met = {True: "yes", False: "NO", None: ""}[figure["met"]]
    return (
        figure["name"],
        f"{amount(figure['value'])} {unit}",
        baseline,
        "" if ratio is None else amount(ratio),
        figure["target"] or "",
        met,
    )


def amount(value: float) -> str:
    """Return a number with three significant digits, none lost before the point."""
    if value == 0:
        return "0"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    text = f"{value:,.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def programs() -> dict[str, str]:
    """Return the names of all programs, each with the first sentence about it."""
    files = sorted((ROOT / "benchmarks").glob("*.py"))
    return {
        path.stem: (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n\n")[0]
        for path in files
        if path.stem not in _NO_PROGRAMS
    }


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the value that `percent` of `values` do not exceed (the nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)]


def python_module(name: str, *arguments: str) -> list[str]:
    """Return the command that runs a module with this Python."""
    return [sys.executable, "-m", name, *arguments]


@contextmanager
def child(
    argv: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None = None,
    log: Path | None = None,
    cwd: Path = ROOT,
) -> Iterator[psutil.Popen]:
    """Run a program beside the block, on top of our own environment; stop it at the block's end.

    It dies with us too, however we end. Its output goes to the file `log`, or nowhere.
    """
    with (log or Path(os.devnull)).open("ab") as output:
        process = psutil.Popen(
            on_a_leash([str(part) for part in argv]),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**os.environ, **(env or {})},
            cwd=cwd,
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except psutil.TimeoutExpired:
            process.kill()
            process.wait(STOP_SECONDS)


def cpu_seconds(pid: int) -> float:
    """Return the CPU time that the process has used so far, the kernel's for it included."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def pss_bytes(pid: int) -> int:
    """Return the memory of the process, what it shares divided among those who share it."""
    return int(psutil.Process(pid).memory_full_info().pss)


def free_port() -> int:
    """Return a port of the loopback interface that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def until_listening(
    port: int, process: psutil.Popen | None = None, *, seconds: float = START_SECONDS
) -> None:
    """Return once somebody accepts connections on the port of the loopback interface.

    Raises:
        RuntimeError: `process`, which should, has ended instead.
        TimeoutError: nobody did within `seconds`.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if process is not None and process.poll() is not None:
            raise RuntimeError(f"{process.args[-1]} ended with {process.returncode} at its start")
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.02)
        else:
            return
    raise TimeoutError(f"nobody listens on port {port} after {seconds:g} s")


def peer(program: str) -> Path | None:
    """Return the path of a peer's program, e.g. "litellm" or "python"; None: not installed."""
    path = PEERS / "bin" / program
    return path if path.exists() else None


def _commit() -> str:
    """Return the commit that was measured, with a mark if files differ from it."""
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or "unknown"


def _machine() -> dict[str, Any]:
    return {
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "cpu": _cpu_model(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()
