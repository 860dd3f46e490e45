"""What is appended is there, whole and in order, or not at all."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct
from google.protobuf.wrappers_pb2 import Int64Value, StringValue

from engineshed import ids
from engineshed.errors import Kind
from engineshed.eventstore import (
    EventStore,
    EventTooLargeError,
    Metadata,
    StreamAppend,
    StreamConflictError,
)

ME = Metadata("tok_me", "org_mine", "req_1", "00-aa-bb-01", "evt_cause")
OpenStore = Callable[..., Awaitable[EventStore]]


def to(stream: str, expected_version: int, *events: Message) -> StreamAppend:
    return StreamAppend(stream, expected_version, events or [StringValue(value="x")], ME)


async def test_an_event_is_read_back_as_it_was_recorded(store: EventStore) -> None:
    fact = Struct()
    fact.update({"replicas": [1, 2], "name": "näme"})

    recorded = await store.append(to("endpoint/ep_1", 0, fact))

    assert await store.load("endpoint/ep_1") == recorded
    (event,) = recorded
    assert (event.position, event.version) == (1, 1)
    assert event.type == "google.protobuf.Struct"
    assert event.event == fact
    assert event.metadata == ME
    assert ids.is_id(event.event_id, ids.EVENT)
    assert event.recorded_at.tzinfo is UTC


async def test_a_stream_is_kept_in_order_of_versions(store: EventStore) -> None:
    await store.append(to("a/1", 0, Int64Value(value=1), Int64Value(value=2)))
    await store.append(to("b/1", 0, Int64Value(value=9)))
    await store.append(to("a/1", 2, Int64Value(value=3)))

    history = await store.load("a/1")

    assert [event.version for event in history] == [1, 2, 3]
    assert [event.event for event in history] == [Int64Value(value=n) for n in (1, 2, 3)]
    assert [event.position for event in history] == [1, 2, 4]


async def test_a_stream_that_does_not_exist_is_empty(store: EventStore) -> None:
    assert await store.load("a/none") == []
    assert await store.last_position() == 0


@pytest.mark.parametrize("expected_version", [-1, 0, 1, 3, 7])
async def test_an_append_at_another_version_is_refused(
    store: EventStore, expected_version: int
) -> None:
    await store.append(to("a/1", 0, Int64Value(value=1), Int64Value(value=2)))

    with pytest.raises(StreamConflictError, match="a/1 is at version 2") as refused:
        await store.append(to("a/1", expected_version))

    assert refused.value.kind is Kind.CONFLICT
    assert refused.value.facts["version"] == "2"
    assert await store.last_position() == 2


async def test_an_append_to_a_missing_stream_that_expects_one_is_refused(store: EventStore) -> None:
    with pytest.raises(StreamConflictError, match="a/1 is at version 0"):
        await store.append(to("a/1", 1))


async def test_of_many_who_decide_on_the_same_version_one_wins(open_store: OpenStore) -> None:
    stores = [await open_store(), await open_store()]

    outcomes = await asyncio.gather(
        *(stores[n % 2].append(to("a/1", 0)) for n in range(20)), return_exceptions=True
    )

    assert sum(isinstance(outcome, list) for outcome in outcomes) == 1
    assert sum(isinstance(outcome, StreamConflictError) for outcome in outcomes) == 19
    assert len(await stores[0].load("a/1")) == 1


async def test_several_streams_are_appended_together(store: EventStore) -> None:
    recorded = await store.append(to("a/1", 0), to("b/1", 0), to("a/1", 1))

    assert [(event.stream, event.version) for event in recorded] == [
        ("a/1", 1),
        ("b/1", 1),
        ("a/1", 2),
    ]
    assert await store.read(0) == recorded


async def test_a_conflict_on_one_stream_undoes_the_others(store: EventStore) -> None:
    await store.append(to("b/1", 0))

    with pytest.raises(StreamConflictError, match="b/1"):
        await store.append(to("a/1", 0), to("b/1", 0))

    assert await store.load("a/1") == []
    assert await store.last_position() == 1


async def test_a_refused_append_leaves_no_hole_in_the_positions(store: EventStore) -> None:
    await store.append(to("a/1", 0))
    with pytest.raises(StreamConflictError):
        await store.append(to("a/1", 0))
    await store.append(to("a/1", 1))

    assert [event.position for event in await store.read(0)] == [1, 2]


async def test_an_append_without_events_is_a_mistake(store: EventStore) -> None:
    with pytest.raises(ValueError, match="a/1: no events"):
        await store.append(StreamAppend("a/1", 0, [], ME))


@pytest.mark.parametrize("stream", ["", "a", "a/", "/1", "A/1", "a/1/2", "a/1.2", "a/x y", "a/>"])
async def test_a_stream_that_no_subject_could_name_is_a_mistake(
    store: EventStore, stream: str
) -> None:
    with pytest.raises(ValueError, match="is not named <aggregate>/<id>"):
        await store.append(to(stream, 0))


@pytest.mark.parametrize("org_id", ["", "org.1", "org 1", "*"])
async def test_an_event_belongs_to_an_organization(store: EventStore, org_id: str) -> None:
    with pytest.raises(ValueError, match="is no organization's id"):
        await store.append(replace(to("a/1", 0), metadata=Metadata("tok_me", org_id)))


async def test_an_event_that_no_broker_would_carry_is_refused(store: EventStore) -> None:
    outcomes = await asyncio.gather(
        store.append(to("a/1", 0)),
        store.append(to("a/2", 0, StringValue(value="x" * 1_000_000))),
        store.append(to("a/3", 0)),
        return_exceptions=True,
    )

    assert [type(outcome) for outcome in outcomes] == [list, EventTooLargeError, list]
    assert await store.last_position() == 2


async def test_time_never_goes_back_when_the_clock_does(open_store: OpenStore) -> None:
    noon = datetime(2026, 3, 1, 12, tzinfo=UTC)
    times = iter([noon, noon - timedelta(hours=1), noon + timedelta(microseconds=1)])
    store = await open_store(clock=lambda: next(times))
    later = await open_store(clock=lambda: noon - timedelta(days=1))

    recorded = [
        await store.append(to("a/1", 0)),
        await store.append(to("a/1", 1)),
        await store.append(to("a/1", 2)),
        await later.append(to("a/1", 3)),
    ]

    assert [event.recorded_at - noon for (event,) in recorded] == [
        timedelta(0),
        timedelta(0),
        timedelta(microseconds=1),
        timedelta(microseconds=1),
    ]


async def test_what_was_appended_is_there_after_reopening(open_store: OpenStore) -> None:
    first = await open_store()
    recorded = await first.append(to("a/1", 0))
    await first.close()

    second = await open_store()

    assert await second.load("a/1") == recorded
    assert second.known_position == 1


async def test_closing_writes_what_waits_and_takes_nothing_more(open_store: OpenStore) -> None:
    store = await open_store()
    waiting = [asyncio.create_task(store.append(to(f"a/{n}", 0))) for n in range(5)]
    await asyncio.sleep(0)  # they start

    await store.close()

    assert [len(recorded) for recorded in await asyncio.gather(*waiting)] == [1] * 5
    with pytest.raises(RuntimeError, match="the event store of test is closed"):
        await store.append(to("a/9", 0))
    assert await (await open_store()).last_position() == 5
