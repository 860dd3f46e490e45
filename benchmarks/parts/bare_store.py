"""What an event store costs at the least: SQLAlchemy Core, an event row and an outbox row each.

Appends that wait together are committed together, as a careful service without a library would do
it. There are no conflicts to refuse, nothing is idempotent, and positions may have holes.
"""

import asyncio
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from google.protobuf.message import Message
from sqlalchemy import (
    BigInteger,
    Column,
    Engine,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    UniqueConstraint,
    create_engine,
    event,
    insert,
)

_METADATA: Final = MetaData()
_Position: Final = BigInteger().with_variant(Integer(), "sqlite")

EVENTS: Final = Table(
    "bare_events",
    _METADATA,
    Column("position", _Position, primary_key=True),
    Column("event_id", String, nullable=False),
    Column("stream", String, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("type", String, nullable=False),
    Column("data", LargeBinary, nullable=False),
    Column("recorded_at", BigInteger, nullable=False),
    UniqueConstraint("stream", "version"),
)
_OUTBOX: Final = Table(
    "bare_outbox",
    _METADATA,
    Column("id", _Position, primary_key=True),
    Column("event_id", String, nullable=False),
    Column("subject", String, nullable=False),
    Column("data", LargeBinary, nullable=False),
)

_Waiting = tuple[str, int, Message, "asyncio.Future[None]"]


class BareStore:
    """Group commit and nothing else."""

    def __init__(self, url: str) -> None:
        self.engine = _engine(url)
        _METADATA.create_all(self.engine)
        self._thread = ThreadPoolExecutor(1)
        self._waiting: list[_Waiting] = []
        self._committing: asyncio.Task[None] | None = None

    async def append(self, stream: str, version: int, message: Message) -> None:
        """Return when the event is on disk."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((stream, version, message, future))
        if self._committing is None or self._committing.done():
            self._committing = asyncio.create_task(self._commit())
        await future

    def close(self) -> None:
        self._thread.shutdown()
        self.engine.dispose()

    async def _commit(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            batch, self._waiting = self._waiting, []
            await loop.run_in_executor(self._thread, self._write, batch)
            for *_, future in batch:
                future.set_result(None)

    def _write(self, batch: list[_Waiting]) -> None:
        now = time.time_ns() // 1000
        events, outbox = [], []
        for stream, version, message, _ in batch:
            event_id = uuid.uuid4().hex
            kind, data = message.DESCRIPTOR.full_name, message.SerializeToString()
            events.append(
                {
                    "event_id": event_id,
                    "stream": stream,
                    "version": version,
                    "type": kind,
                    "data": data,
                    "recorded_at": now,
                }
            )
            outbox.append({"event_id": event_id, "subject": f"events.{kind}", "data": data})
        with self.engine.begin() as connection:
            connection.execute(insert(EVENTS), events)
            connection.execute(insert(_OUTBOX), outbox)


def _engine(url: str) -> Engine:
    if url.startswith("postgresql:"):
        return create_engine(url.replace("postgresql:", "postgresql+psycopg:", 1))
    engine = create_engine(url, connect_args={"check_same_thread": False})

    @event.listens_for(engine, "connect")
    def connected(driver, _):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202 - the driver's own
        driver.execute("PRAGMA journal_mode = WAL")
        driver.execute("PRAGMA synchronous = FULL")

    return engine
