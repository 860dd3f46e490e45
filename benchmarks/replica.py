"""One replica's front, with a real Triton whose model computes nothing, beside a bare loop.

The front is the real process: it tokenizes, admits, detokenizes, looks for the end, counts and
measures. The bare loop has the same Triton and writes an event for each of its responses. Rounds of
both take turns, and their medians are compared. CPU is that of the front alone, without Triton.
"""

import argparse
import asyncio
import http.client
import json
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

import psutil
from benchmarks.harness import (
    Figure,
    Report,
    Target,
    child,
    cpu_seconds,
    free_port,
    percentile,
    pss_bytes,
    python_module,
    until_listening,
)
from benchmarks.parts.load import Load, measured
from tests.service.replica.fronts import MANIFEST, SECRET, Front, few, write_echo_engine

PROGRAM: Final = Path(__file__).parent / "parts" / "tokens_model.py"
BARE: Final = "bare loop"
TOKENS: Final = 128
STREAMS: Final = 64
IDLE_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class Server:
    """Something that answers with the tokens of Triton."""

    port: int
    pid: int


@dataclass(frozen=True, slots=True)
class Round:
    """What one load on one server came to."""

    micros: float
    """CPU of the server for a token."""
    rate: float
    """Tokens a second."""
    first: float
    """Milliseconds until the first token, the median."""
    late: float
    """Milliseconds that the last token was late, of a hundred streams the second worst."""


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each round")
    options = parser.parse_args()
    report = Report("replica")
    with tempfile.TemporaryDirectory() as folder, front(Path(folder)) as (ours, triton):
        _see_that_it_is_right(ours)
        with bare_loop(triton) as bare:
            for streams, gap in ((STREAMS, 0), (STREAMS, 10), (32, 10), (STREAMS, 30)):
                rounds = [
                    (_round(bare, streams, gap, options), _round(ours, streams, gap, options))
                    for _ in range(options.rounds)
                ]
                report.add(*_figures(streams, gap, *map(_middle, zip(*rounds, strict=True))))
        report.add(*_idle(ours, triton))
    report.note(
        "Triton's Python back end, the load generator and the front share the machine's cores; "
        "with the back end's own cost of a token, tokens/s has a limit that is not the front's."
    )
    report.finish()


@contextmanager
def front(folder: Path) -> Iterator[tuple[Server, psutil.Process]]:
    """Run a front and its Triton beside the block."""
    manifest = few(MANIFEST, max_context=4096, max_concurrent=2 * STREAMS)
    engine, repository = write_echo_engine(folder, manifest, program=PROGRAM)
    it = Front.start(folder / "replica", engine, repository)
    try:
        state = asyncio.run(it.ready()).state
        port = int(state.http_url.rpartition(":")[2])
        yield Server(port, state.pid), psutil.Process(state.triton_pid)
    finally:
        asyncio.run(it.end())


@contextmanager
def bare_loop(triton: psutil.Process) -> Iterator[Server]:
    """Run the bare loop with the front's Triton beside the block."""
    port = free_port()
    options = dict(part.partition("=")[::2] for part in triton.cmdline())
    argv = python_module("benchmarks.parts.bare_front", str(port), options["--grpc-port"])
    with child(argv) as process:
        until_listening(port, process)
        yield Server(port, process.pid)


def _request(gap: int) -> dict[str, Any]:
    return {"prompt": str(gap), "max_tokens": TOKENS, "temperature": 0, "stream": True}


def _round(server: Server, streams: int, gap: int, options: argparse.Namespace) -> Round:
    load = Load(
        server.port,
        SECRET,
        "paced" if gap else "unpaced",
        streams,
        seconds=options.seconds,
        spread=gap * TOKENS / 1000,
        path="/v1/completions",
        body=_request(gap),
    )
    seen, used = measured(load, lambda: cpu_seconds(server.pid))
    tokens = seen.answers * TOKENS
    late = [
        (whole - first) * 1000 - gap * (TOKENS - 1)
        for first, whole in zip(seen.first, seen.whole, strict=True)
    ]
    return Round(
        micros=used / tokens * 1e6,
        rate=tokens / seen.seconds,
        first=median(seen.first) * 1000,
        late=percentile(late, 99),
    )


def _middle(rounds: tuple[Round, ...]) -> Round:
    return Round(*(median(getattr(each, name) for each in rounds) for name in Round.__slots__))


def _figures(streams: int, gap: int, bare: Round, ours: Round) -> list[Figure]:
    name = f"{streams} streams, " + (f"a token every {gap} ms" if gap else "unpaced")
    cost = Target("at most", 100, of="value")
    figures = [
        Figure(f"{name}: CPU per token", ours.micros, "µs", BARE, bare.micros, cost),
        Figure(f"{name}: first token, p50", ours.first, "ms", BARE, bare.first),
    ]
    if gap:
        figures.append(Figure(f"{name}: last token late, p99", ours.late, "ms", BARE, bare.late))
    else:
        rate = Target("at least", 8000, of="value")
        figures.append(Figure(f"{name}: rate", ours.rate, "tokens/s", BARE, bare.rate, rate))
    return figures


def _see_that_it_is_right(server: Server) -> None:
    """Ask once, and see that every token arrives."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    body = json.dumps({**_request(0), "stream": False})
    headers = {"authorization": f"Bearer {SECRET}"}
    with closing(connection):
        connection.request("POST", "/v1/completions", body, headers)
        answer = json.load(connection.getresponse())
    text = answer["choices"][0]["text"]
    if len(text) != TOKENS or answer["usage"]["completion_tokens"] != TOKENS:
        raise RuntimeError(f"these are not {TOKENS} tokens: {answer}")


def _idle(server: Server, triton: psutil.Process) -> list[Figure]:
    """Measure what front and Triton use while nobody asks."""
    import time

    everyone = {"front": [server.pid], "Triton": [triton.pid, *_children(triton)]}
    before = {name: sum(map(cpu_seconds, pids)) for name, pids in everyone.items()}
    time.sleep(IDLE_SECONDS)
    return [
        figure
        for name, pids in everyone.items()
        for figure in (
            Figure(
                f"idle: CPU of the {name}",
                (sum(map(cpu_seconds, pids)) - before[name]) / IDLE_SECONDS * 100,
                "% of a core",
            ),
            Figure(f"idle: memory of the {name}", sum(map(pss_bytes, pids)) / 1e6, "MB (PSS)"),
        )
    ]


def _children(process: psutil.Process) -> list[int]:
    return [child.pid for child in process.children(recursive=True)]


if __name__ == "__main__":
    main()
