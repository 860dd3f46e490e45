"""The relay against a broker that fails in every way, with the failures drawn by chance."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial

import pytest
from google.protobuf.wrappers_pb2 import Int64Value
from sqlalchemy import Connection, update
from tests.service.eventstore.servers import PostgresServer

from engineshed.eventstore import EventStore, Metadata, RecordedEvent, Relay, StreamAppend
from engineshed.eventstore.errors import StoreUnavailableError
from engineshed.eventstore.reading import cursor
from engineshed.eventstore.schema import events

DEADLINE_S = 30


class Broker:
    """Keeps what is published, at least when it does not fail. It drops no duplicates."""

    def __init__(self, seed: int, *, failing: bool) -> None:
        self.log: list[RecordedEvent] = []
        self.failing = failing
        self.retention_removed_all = False
        self._chance = random.Random(seed)
        self._lost = False  # since the relay asked last

    async def publish(self, event: RecordedEvent) -> None:
        for _ in range(self._chance.randrange(4)):
            await asyncio.sleep(0)
        fate = self._chance.random() if self.failing else 1.0
        if self._lost or fate < 0.02:
            raise ConnectionError("not stored")
        self.log.append(event)
        if fate < 0.04:
            raise TimeoutError("stored, but the acknowledgement was lost")
        if fate < 0.05:  # it crashes, and what it had not flushed is gone
            del self.log[-self._chance.randrange(1, 30) :]
            self._lost = True
            raise ConnectionError("broker restarted")

    async def resume_position(self) -> int | None:
        if self.failing and self._chance.random() < 0.2:
            raise ConnectionError("no answer")
        self._lost = False
        if self.retention_removed_all:
            return None
        return self.log[-1].position if self.log else 0


@asynccontextmanager
async def relaying(store: EventStore, broker: Broker) -> AsyncIterator[Relay]:
    relay = Relay(store, broker)
    running = asyncio.create_task(relay.run())
    yield relay
    running.cancel()
    await asyncio.wait([running], timeout=DEADLINE_S)
    assert running.cancelled()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            await asyncio.sleep(0.005)


async def write(store: EventStore, stream: str, count: int) -> None:
    start = len(await store.load(stream))
    for version in range(start, start + count):
        event = Int64Value(value=version)
        await store.append(StreamAppend(stream, version, [event], Metadata("tok_1", "org_1")))


def assert_in_order(published: Sequence[RecordedEvent], recorded: Sequence[RecordedEvent]) -> None:
    """Hold the first delivery of each event against the log: all are there, streams in order."""
    first: dict[str, RecordedEvent] = {}
    for event in published:
        first.setdefault(event.event_id, event)
    by_stream = sorted(first.values(), key=lambda event: event.stream)  # stable
    assert by_stream == sorted(recorded, key=lambda event: (event.stream, event.version))


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engineshed.eventstore.relay._FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr("engineshed.eventstore.relay._LONGEST_PAUSE_S", 0.01)


@pytest.mark.parametrize("seed", range(6))
async def test_nothing_is_skipped_or_reordered_whatever_fails(store: EventStore, seed: int) -> None:
    broker = Broker(seed, failing=True)

    for _ in range(3):  # lives of the relay, each ended in the middle
        async with relaying(store, broker):
            await asyncio.gather(*(write(store, f"a/{n}", 10 if n else 60) for n in range(10)))
    broker.failing = False
    async with relaying(store, broker):
        await until(lambda: bool(broker.log) and broker.log[-1].position == 450)

    recorded = await store.read(0, 1000)
    assert len(recorded) == 450
    assert_in_order(broker.log, recorded)


async def test_events_are_published_in_order_once_when_nothing_fails(store: EventStore) -> None:
    broker = Broker(0, failing=False)
    await write(store, "a/1", 30)

    async with relaying(store, broker) as relay:
        await until(lambda: len(broker.log) == 30)
        await write(store, "a/1", 30)
        await until(lambda: relay._settled == 60)
    assert relay.lag == 0
    async with relaying(store, broker):  # a second life begins where the first one ended
        await write(store, "a/1", 1)
        await until(lambda: len(broker.log) == 61)

    assert broker.log == await store.read(0)


async def test_a_killed_relay_leaves_a_recent_position_on_disk(store: EventStore) -> None:
    broker = Broker(0, failing=False)
    await write(store, "a/1", 5)
    async with relaying(store, broker), asyncio.timeout(DEADLINE_S):
        while await store.query(lambda connection: cursor(connection, "relay")) < 5:
            await asyncio.sleep(0.005)
        await write(store, "a/1", 1)  # the next one is written down after the first, too
        while await store.query(lambda connection: cursor(connection, "relay")) < 6:
            await asyncio.sleep(0.005)


async def test_the_cursor_counts_when_the_broker_has_removed_its_events(store: EventStore) -> None:
    broker = Broker(0, failing=False)
    await write(store, "a/1", 5)
    async with relaying(store, broker) as relay:
        await until(lambda: relay._settled == 5)
    broker.log.clear()
    broker.retention_removed_all = True

    async with relaying(store, broker):
        await write(store, "a/1", 2)
        await until(lambda: len(broker.log) == 2)

    assert [event.position for event in broker.log] == [6, 7]


async def test_an_unreadable_event_holds_the_relay_until_it_can_be_read(store: EventStore) -> None:
    broker = Broker(0, failing=False)
    await write(store, "a/1", 1)

    def rename(connection: Connection, type_: str) -> None:
        connection.execute(update(events).where(events.c.position == 1).values(type=type_))

    await store.append(write=partial(rename, type_="api.v1.TimeMachineBuilt"))
    async with relaying(store, broker) as relay:
        await until(lambda: relay.lag == 1)
        await write(store, "a/2", 1)
        assert broker.log == []
        await store.append(write=partial(rename, type_="google.protobuf.Int64Value"))
        await until(lambda: relay.lag == 0)

    assert [event.position for event in broker.log] == [1, 2]


async def test_a_relay_that_starts_while_the_database_is_away_waits_for_it(
    store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engineshed.eventstore.patience._RETRY_S", 0.01)
    broker = Broker(0, failing=False)
    await write(store, "a/1", 3)
    query, tries = store.query, 0

    async def away_at_first(fn: Callable[[Connection], object]) -> object:
        nonlocal tries
        tries += 1
        if tries < 4:
            raise StoreUnavailableError("no connection to its server")
        return await query(fn)

    monkeypatch.setattr(store, "query", away_at_first)
    async with relaying(store, broker):
        await until(lambda: len(broker.log) == 3)


async def test_a_relay_goes_on_when_its_database_was_killed() -> None:
    broker = Broker(0, failing=False)
    with PostgresServer() as server:
        store = await EventStore.open(server.new_database(), service="test")
        async with relaying(store, broker):
            await write(store, "a/1", 5)
            await until(lambda: len(broker.log) == 5)
            server.kill()
            with pytest.raises(StoreUnavailableError):
                await write(store, "a/2", 1)
            server.start()
            await write(store, "a/2", 5)
            await until(lambda: len(broker.log) == 10)
        assert broker.log == await store.read(0)
        await store.close()
