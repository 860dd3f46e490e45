"""How long a committed event takes to a subscriber of NATS, at 1,000 events a second.

One process has a service's event store, its relay and its bus, and appends; another one subscribes.
Both read the same monotonic clock. The baseline of the same rounds is nats-py alone: messages of
the same size, published into the same stream without a database in between.
"""

import asyncio
import itertools
import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

from benchmarks.harness import (
    ROOT,
    Figure,
    Report,
    Target,
    child,
    free_port,
    percentile,
    python_module,
    until_listening,
)
from tests.service.eventstore.servers import PostgresServer

from engineshed.bus import Bus, ensure_streams
from engineshed.bus.embedded import NatsUsers, write_config
from engineshed.bus.embedded import command as nats_command

RATE: Final = float(os.environ.get("BENCH_LATENCY_RATE", "1000"))
SECONDS: Final = float(os.environ.get("BENCH_LATENCY_SECONDS", "20"))
ROUNDS: Final = int(os.environ.get("BENCH_LATENCY_ROUNDS", "3"))

_PATIENCE: Final = 60.0  # seconds more than it should take
# The first ones pay for connections and imports.
_WARM_UP: Final = int(RATE)


@dataclass(frozen=True, slots=True)
class Seen:
    """Latencies of one round, in milliseconds."""

    committed: list[float]  # from the acknowledged commit to the subscriber
    asked: list[float]  # from the call to append to the subscriber


def main() -> None:
    """Measure and report."""
    report = Report("latency")
    with tempfile.TemporaryDirectory(prefix="engineshed-bench-") as folder:
        for name, database in (("SQLite", _sqlite), ("PostgreSQL", _postgresql)):
            with ExitStack() as running:
                urls = running.enter_context(database(Path(folder)))
                rounds = [
                    (
                        _round(Path(folder) / f"{name}-{number}-bare", next(urls), bare=True),
                        _round(Path(folder) / f"{name}-{number}", next(urls)),
                    )
                    for number in range(ROUNDS)
                ]
            report.add(*_figures(name, rounds))
    report.note(
        f"{ROUNDS} rounds of each in turn, {SECONDS:g} s at {RATE:g} events/s, of which the first "
        f"{_WARM_UP} are left out; the median of the rounds' percentiles"
    )
    report.finish()


def _figures(name: str, rounds: list[tuple[Seen, Seen]]) -> Iterator[Figure]:
    for percent, limit in ((50, 5), (99, 25)):
        bare = median(percentile(each.committed, percent) for each, _ in rounds)
        yield Figure(
            f"{name}: from commit to subscriber, p{percent}",
            median(percentile(ours.committed, percent) for _, ours in rounds),
            "ms",
            "nats-py alone",
            bare,
            Target("at most", limit, of="value"),
        )
        yield Figure(
            f"{name}: from the call to append to subscriber, p{percent}",
            median(percentile(ours.asked, percent) for _, ours in rounds),
            "ms",
            "nats-py alone",
            bare,
        )


def _round(folder: Path, database_url: str, *, bare: bool = False) -> Seen:
    folder.mkdir()
    port = free_port()
    users = write_config(folder, port)
    count = round(RATE * SECONDS)
    with child(nats_command(folder), log=folder / "nats.log") as nats:
        until_listening(port, nats)
        _make_stream(users)
        subscribe = python_module(
            "benchmarks.parts.latency_subscribe",
            users.urls["subscriber"],
            *(str(count), str(SECONDS + _PATIENCE)),
        )
        append = python_module(
            "benchmarks.parts.latency_append",
            *(database_url, users.urls["scheduler"], str(RATE), str(SECONDS)),
            *(["bare"] if bare else []),
        )
        with (
            subprocess.Popen(subscribe, stdout=subprocess.PIPE, cwd=ROOT, text=True) as subscriber,
            _when_ready(subscriber, append) as appender,
        ):
            assert subscriber.stdout is not None
            assert appender.stdout is not None
            sent = json.loads(appender.stdout.readline())
            arrived = json.loads(subscriber.stdout.read())
            appender.communicate()  # it ends when its input does
    return _compared(sent, arrived, count)


def _when_ready(subscriber: subprocess.Popen[str], append: list[str]) -> subprocess.Popen[str]:
    assert subscriber.stdout is not None
    if subscriber.stdout.readline() != "ready\n":
        raise RuntimeError("the subscriber does not start; see the error above")
    pipe = subprocess.PIPE
    return subprocess.Popen(append, stdin=pipe, stdout=pipe, cwd=ROOT, text=True)


def _compared(sent: dict[str, tuple[float, float]], arrived: dict[str, float], count: int) -> Seen:
    missing = count - len(sent.keys() & arrived.keys())
    if missing:
        raise RuntimeError(f"{missing} of {count} events did not arrive")
    measured = [position for position in sent if int(position) > _WARM_UP]
    return Seen(
        committed=[1000 * (arrived[one] - sent[one][1]) for one in measured],
        asked=[1000 * (arrived[one] - sent[one][0]) for one in measured],
    )


def _make_stream(users: NatsUsers) -> None:
    """Make the stream as services do, so that there is something to subscribe to."""

    async def make() -> None:
        bus = await Bus.connect(users.urls["scheduler"], name="scheduler")
        await bus.wait_connected()
        await ensure_streams(bus)
        await bus.close()

    asyncio.run(make())


@contextmanager
def _sqlite(folder: Path) -> Iterator[Iterator[str]]:
    yield (f"sqlite:///{folder}/{number}.db" for number in itertools.count())


@contextmanager
def _postgresql(_folder: Path) -> Iterator[Iterator[str]]:
    with PostgresServer() as server:
        yield (server.new_database() for _ in itertools.count())


if __name__ == "__main__":
    main()
