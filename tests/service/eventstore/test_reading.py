"""Reading the log: as it was, in part, and as it grows."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from datetime import UTC, datetime, timedelta

import pytest
from google.protobuf.message import Message
from google.protobuf.wrappers_pb2 import Int64Value, StringValue
from sqlalchemy import Connection, text, update

from engineshed.eventstore import (
    EventStore,
    Metadata,
    RecordedEvent,
    StoreUnavailableError,
    StreamAppend,
    UnknownEventTypeError,
)
from engineshed.eventstore.schema import events

OpenStore = Callable[..., Awaitable[EventStore]]


def to(stream: str, expected_version: int, *facts: Message, org: str = "org_1") -> StreamAppend:
    return StreamAppend(
        stream, expected_version, facts or [StringValue(value="x")], Metadata("tok_1", org)
    )


def positions(found: list[RecordedEvent]) -> list[int]:
    return [event.position for event in found]


@pytest.fixture
async def filled(store: EventStore) -> EventStore:
    """Six events: positions 1, 2, 5 of a/1, and 3, 4, 6 of two organizations' b/…"""
    await store.append(to("a/1", 0, StringValue(value="x"), Int64Value(value=1)))
    await store.append(to("b/1", 0, org="org_2"))
    await store.append(to("b/2", 0, Int64Value(value=2), org="org_1"))
    await store.append(to("a/1", 2))
    await store.append(to("b/1", 1, Int64Value(value=3), org="org_2"))
    return store


async def test_a_stream_can_be_read_as_it_was_at_a_moment(open_store: OpenStore) -> None:
    noon = datetime(2026, 3, 1, 12, tzinfo=UTC)
    times = iter(noon + timedelta(minutes=n) for n in range(3))
    store = await open_store(clock=lambda: next(times))
    for version in range(3):
        await store.append(to("a/1", version))

    async def version_at(moment: datetime) -> int:
        return len(await store.load("a/1", as_of=moment))

    assert await version_at(noon - timedelta(microseconds=1)) == 0
    assert await version_at(noon) == 1
    assert await version_at(noon + timedelta(seconds=119)) == 2
    assert await version_at(noon + timedelta(days=1)) == 3


async def test_reading_forward_begins_after_a_position(filled: EventStore) -> None:
    assert positions(await filled.read(0)) == [1, 2, 3, 4, 5, 6]
    assert positions(await filled.read(4)) == [5, 6]
    assert positions(await filled.read(6)) == []
    assert positions(await filled.read(99)) == []


async def test_reading_forward_can_be_limited(filled: EventStore) -> None:
    assert positions(await filled.read(1, 2)) == [2, 3]
    assert positions(await filled.read(0, 2, stream="b/1")) == [3, 6]


async def test_events_are_filtered_by_stream_organization_and_type(filled: EventStore) -> None:
    number = "google.protobuf.Int64Value"

    assert positions(await filled.read(0, stream="a/1")) == [1, 2, 5]
    assert positions(await filled.read(0, org_id="org_2")) == [3, 6]
    assert positions(await filled.read(0, types=[number])) == [2, 4, 6]
    assert positions(await filled.read(0, org_id="org_2", types=[number])) == [6]
    assert positions(await filled.read(2, stream="a/1", types=["no.Such"])) == []


async def test_a_fold_takes_the_whole_log_in_order(
    filled: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engineshed.eventstore.store._FOLD_PAGE", 4)
    taken: list[object] = []

    await filled.fold(lambda *fact: taken.append(fact))

    assert taken == [(one.stream, one.event, one.recorded_at) for one in await filled.read(0)]


async def test_a_query_cannot_write(filled: EventStore) -> None:
    with pytest.raises(StoreUnavailableError, match=r"read-?only"):
        await filled.query(lambda connection: connection.execute(text("DELETE FROM events")))

    assert await filled.last_position() == 6


async def test_an_event_of_an_unknown_type_is_named(filled: EventStore) -> None:
    def rename(connection: Connection) -> None:
        connection.execute(
            update(events)
            .where(events.c.position == 3)
            .values(type="engineshed.api.catalog.v1.TimeMachineBuilt")
        )

    await filled.append(write=rename)

    with pytest.raises(UnknownEventTypeError, match=r"v1\.TimeMachineBuilt, .* newer code"):
        await filled.load("b/1")
    assert positions(await filled.read(3)) == [4, 5, 6]


async def test_a_follower_gets_what_is_there_and_then_what_comes(filled: EventStore) -> None:
    async with asyncio.timeout(10), aclosing(filled.follow(4)) as following:
        seen = [(await anext(following)).position for _ in range(2)]
        nxt = asyncio.create_task(anext(following))
        await filled.append(to("c/1", 0), to("c/2", 0))
        seen += [(await nxt).position, (await anext(following)).position]

    assert seen == [5, 6, 7, 8]


async def test_a_follower_sees_what_another_process_commits(open_store: OpenStore) -> None:
    here, elsewhere = await open_store(), await open_store()

    async with asyncio.timeout(10), aclosing(here.follow(0)) as following:
        nxt = asyncio.create_task(anext(following))
        await elsewhere.append(to("c/1", 0))
        event = await nxt

    assert event.position == 1
    assert here.known_position == 1


async def test_a_follower_gets_only_what_it_asked_for(filled: EventStore) -> None:
    async with asyncio.timeout(10), aclosing(filled.follow(3, org_id="org_2")) as following:
        seen = [(await anext(following)).position]
        nxt = asyncio.create_task(anext(following))
        await filled.append(to("c/1", 0))
        await filled.append(to("c/2", 0, org="org_2"))
        seen.append((await nxt).position)

    assert seen == [6, 8]


async def test_a_follower_misses_nothing_of_many_writers(store: EventStore) -> None:
    async def write(stream: str) -> None:
        for version in range(60):
            await store.append(to(stream, version))

    async with asyncio.timeout(30), aclosing(store.follow(0)) as following:
        writing = [asyncio.create_task(write(f"a/{n}")) for n in range(20)]
        seen = [(await anext(following)).position for _ in range(1200)]
        await asyncio.gather(*writing)

    assert seen == list(range(1, 1201))
