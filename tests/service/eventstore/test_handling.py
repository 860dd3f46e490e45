"""A command is decided on the newest state, however many come at once."""

import asyncio
from collections.abc import Sequence

import pytest
from google.protobuf.message import Message
from google.protobuf.wrappers_pb2 import Int64Value

from engineshed.eventstore import (
    EventStore,
    Idempotency,
    Metadata,
    RecordedEvent,
    RequestRepeatedError,
    StreamAppend,
    handle,
)

ME = Metadata("tok_1", "org_1")
REQUEST = Idempotency("org_1", "tok_1", "Add", "r1", b"h" * 32, b"answer")


def total(history: Sequence[RecordedEvent]) -> int:
    return sum(item.event.value for item in history if isinstance(item.event, Int64Value))


def add_up_to_ten(state: int) -> Sequence[Message]:
    return [Int64Value(value=1)] if state < 10 else []


async def test_the_new_state_and_the_events_are_returned(store: EventStore) -> None:
    state, recorded = await handle(store, "a/1", total, add_up_to_ten, ME)

    assert state == 1
    assert recorded == await store.load("a/1")


async def test_commands_at_once_are_all_decided_on_what_is_true(store: EventStore) -> None:
    results = await asyncio.gather(
        *(handle(store, "a/1", total, add_up_to_ten, ME) for _ in range(20))
    )

    assert sorted(state for state, _ in results) == [*range(1, 11), *[10] * 10]
    assert total(await store.load("a/1")) == 10


async def test_a_command_that_changes_nothing_records_nothing(store: EventStore) -> None:
    await store.append(StreamAppend("a/1", 0, [Int64Value(value=10)], ME))

    assert await handle(store, "a/1", total, add_up_to_ten, ME) == (10, [])
    assert await store.last_position() == 1


@pytest.mark.parametrize("start", [0, 10], ids=["with a change", "without a change"])
async def test_a_repeated_command_is_recognized(store: EventStore, start: int) -> None:
    await store.append(StreamAppend("a/1", 0, [Int64Value(value=start)], ME))
    await handle(store, "a/1", total, add_up_to_ten, ME, REQUEST)
    before = await store.last_position()

    with pytest.raises(RequestRepeatedError) as repeated:
        await handle(store, "a/1", total, add_up_to_ten, ME, REQUEST)

    assert repeated.value.response == b"answer"
    assert await store.last_position() == before


async def test_a_refusal_is_the_callers(store: EventStore) -> None:
    def refuse(state: int) -> Sequence[Message]:
        raise LookupError("no")

    with pytest.raises(LookupError, match="no"):
        await handle(store, "a/1", total, refuse, ME)

    assert await store.last_position() == 0
