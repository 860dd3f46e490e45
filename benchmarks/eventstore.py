"""Appends by 64 callers at once, and folding a long log, beside what both cost at the least."""

import asyncio
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import structlog
import uvloop
from benchmarks.harness import ROOT, Figure, Report, Target, peer
from benchmarks.parts.bare_store import BareStore
from benchmarks.parts.sample_event import replica_ready
from google.protobuf.message import Message
from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Integer,
    MetaData,
    String,
    Table,
    select,
    update,
)
from tests.service.eventstore.servers import PostgresServer

from engineshed import ids
from engineshed.api.scheduler.v1.events_pb2 import ReplicaReady
from engineshed.eventstore import (
    EventStore,
    Idempotency,
    Metadata,
    RecordedEvent,
    StreamAppend,
    Tables,
    insert_rows,
)
from engineshed.eventstore.codec import Row, encode
from engineshed.eventstore.schema import events, log_head

CALLERS: Final = 64
ROUNDS: Final = 5
ROUND_S: Final = 2.0
FOLDED: Final = 1_000_000
_PAGE: Final = 5_000
_PEER_S: Final = 1.5
_PEER_THREADS: Final = ("1", "8")

_METADATA: Final = Metadata("tok_01ARZ3NDEKTSV4RRFFQ69G5FAV", "org_1", request_id="req_1")
_MODELS: Final = MetaData()
_REPLICAS: Final = Table(
    "replicas",
    _MODELS,
    Column("position", BigInteger().with_variant(Integer(), "sqlite"), primary_key=True),
    Column("replica_id", String, nullable=False),
    Column("url", String, nullable=False),
)

_State = dict[str, tuple[int, str]]  # how many events, and which replica
_NEW: Final = (0, "")

Append = Callable[[int, int], Awaitable[object]]  # by a caller, for the so manyeth time


def project(connection: Connection, recorded: Sequence[RecordedEvent]) -> None:
    """Keep a row for each event."""
    rows = [
        (one.position, one.event.replica_id, one.event.url)
        for one in recorded
        if isinstance(one.event, ReplicaReady)
    ]
    insert_rows(connection, _REPLICAS, rows)


def main() -> None:
    """Measure both databases."""
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    report = Report("eventstore")
    if peer("python") is None:
        report.note("eventsourcing is not installed (make bench does it): no figure beside it")
    with TemporaryDirectory() as folder, PostgresServer() as server:
        for database, url in (
            ("SQLite", f"sqlite:///{folder}/store.db"),
            ("PostgreSQL", server.new_database()),
        ):
            theirs = f"{folder}/peer.db" if database == "SQLite" else server.new_database()
            uvloop.run(_measure_appends(report, database, url, folder, theirs))
        uvloop.run(_measure_folding(report, f"sqlite:///{folder}/folded.db"))
    report.finish()


async def _measure_appends(
    report: Report, database: str, url: str, folder: str, peer_url: str
) -> None:
    migrations = Path(folder)
    (migrations / "r0001_replicas.py").touch()
    tables = Tables("replicas", _MODELS, migrations)
    store = await EventStore.open(url, service="bench", tables=tables, project=project)
    bare = BareStore(url.replace("store.db", "bare.db"))

    async def ours(stream: int, version: int) -> None:
        append = StreamAppend(
            f"endpoint/ep_{stream}", version - 1, [replica_ready(version)], _METADATA
        )
        request_id = f"{time.time_ns():020}-{stream}"  # sorted by time, like clients' ULIDs
        request = Idempotency("org_1", f"tok_{stream}", "Bench", request_id, b"h" * 32, b"an id")
        await store.append(append, idempotency=request)

    async def theirs(stream: int, version: int) -> None:
        await bare.append(f"endpoint/ep_{stream}", version, replica_ready(version))

    rates: dict[Append, list[float]] = {ours: [], theirs: []}
    delays: dict[Append, list[float]] = {ours: [], theirs: []}
    versions: dict[Append, list[int]] = {ours: [0] * CALLERS, theirs: [0] * CALLERS}
    peers: dict[str, list[float]] = {threads: [] for threads in _PEER_THREADS}
    for _ in range(ROUNDS):
        for append in rates:
            rates[append].append(await _round(append, versions[append], delays[append]))
        for threads, found in peers.items():
            found += _peer_rates(database, peer_url, threads)
    lone: dict[Append, list[float]] = {ours: [], theirs: []}
    for append in lone:
        await _round(append, versions[append][:1], lone[append])
    report.add(
        Figure(
            f"{database}: appends, 64 at once, with idempotency row and read model",
            statistics.median(rates[ours]),
            "events/s",
            "bare group commit, event and outbox row",
            statistics.median(rates[theirs]),
            Target("at least", 0.5),
        ),
        Figure(
            f"{database}: the same, median delay",
            statistics.median(delays[ours]) * 1000,
            "ms",
            "bare",
            statistics.median(delays[theirs]) * 1000,
        ),
        Figure(
            f"{database}: a lone append, median delay",
            statistics.median(lone[ours]) * 1000,
            "ms",
            "bare",
            statistics.median(lone[theirs]) * 1000,
        ),
    )
    if all(peers.values()):
        report.add(
            Figure(
                f"{database}: the same appends, beside a library",
                statistics.median(rates[ours]),
                "events/s",
                "eventsourcing, the better of 1 and 8 threads",
                max(statistics.median(found) for found in peers.values()),
                Target("at least", 5),
            )
        )
    await store.close()
    bare.close()


async def _round(append: Append, versions: list[int], delays: list[float]) -> float:
    """Let a caller for each of `versions` append again and again; return how many a second did."""
    began = time.perf_counter()
    until = began + ROUND_S
    done = len(delays)

    async def call(caller: int) -> None:
        while (now := time.perf_counter()) < until:
            versions[caller] += 1
            await append(caller, versions[caller])
            delays.append(time.perf_counter() - now)

    await asyncio.gather(*(call(caller) for caller in range(len(versions))))
    return (len(delays) - done) / (time.perf_counter() - began)


def _peer_rates(database: str, where: str, threads: str) -> list[float]:
    """Return how many events a second the library saved; nothing where it is not installed."""
    python = peer("python")
    if python is None:
        return []
    program = ROOT / "benchmarks" / "parts" / "peer_eventsourcing.py"
    command = [str(python), str(program), database.lower(), where, threads, str(_PEER_S)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return [float(done.stdout)]


async def _measure_folding(report: Report, url: str) -> None:
    store = await EventStore.open(url, service="bench")
    await store.append(write=_fill)
    bare = BareStore(url)
    ours, theirs = [], []
    for _ in range(3):
        began = time.perf_counter()
        if len(await _fold(store)) != CALLERS:
            raise RuntimeError("not all streams were folded")
        ours.append(FOLDED / (time.perf_counter() - began))
        began = time.perf_counter()
        with bare.engine.connect() as connection:
            _fold_bare(connection)
        theirs.append(FOLDED / (time.perf_counter() - began))
    report.add(
        Figure(
            "SQLite: folding a million events",
            statistics.median(ours),
            "events/s",
            "one query, rows and FromString",
            statistics.median(theirs),
            Target("at least", 0.5),
        )
    )
    await store.close()
    bare.close()


async def _fold(store: EventStore) -> _State:
    state: _State = {}

    def take(stream: str, event: Message, _: datetime) -> None:
        _evolve(state, stream, event)

    await store.fold(take)
    return state


def _fold_bare(connection: Connection) -> _State:
    state: _State = {}
    classes = {ReplicaReady.DESCRIPTOR.full_name: ReplicaReady}
    columns = events.c
    query = select(columns.stream, columns.type, columns.data).order_by(columns.position)
    for stream, kind, data in connection.execute(query):
        _evolve(state, stream, classes[kind].FromString(data))
    return state


def _evolve(state: _State, stream: str, event: Message) -> None:
    if isinstance(event, ReplicaReady):
        state[stream] = (state.get(stream, _NEW)[0] + 1, event.replica_id)


def _fill(connection: Connection) -> None:
    """Write the log to fold, past the store, which is only to be read here."""
    now = replica_ready(0).effective_at.ToDatetime()
    rows: list[Row] = []
    for position in range(1, FOLDED + 1):
        stream, version = position % CALLERS, (position - 1) // CALLERS + 1
        message = replica_ready(position)
        recorded = RecordedEvent(
            position,
            ids.new(ids.EVENT),
            f"endpoint/ep_{stream}",
            version,
            message.DESCRIPTOR.full_name,
            message,
            _METADATA,
            now,
        )
        rows.append(encode(recorded, position))
        if len(rows) == _PAGE:
            insert_rows(connection, events, rows)
            rows.clear()
    connection.execute(update(log_head).values(position=FOLDED, recorded_at=FOLDED))


if __name__ == "__main__":
    main()
