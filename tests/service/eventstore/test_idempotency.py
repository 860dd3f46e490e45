"""A request that is sent twice is carried out once."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from google.protobuf.wrappers_pb2 import StringValue

from engineshed.errors import Kind
from engineshed.eventstore import (
    EventStore,
    Idempotency,
    Metadata,
    RequestIdReusedError,
    RequestRepeatedError,
    StreamAppend,
    StreamConflictError,
)
from engineshed.eventstore.forgetting import REMEMBERED_FOR, forget

OpenStore = Callable[..., Awaitable[EventStore]]
REQUEST = Idempotency("org_1", "tok_1", "/m.Service/Create", "r1", b"h" * 32, b"the answer")


def to(stream: str, expected_version: int) -> StreamAppend:
    return StreamAppend(
        stream, expected_version, [StringValue(value="x")], Metadata("tok_1", "org_1")
    )


async def test_a_new_request_has_no_answer_yet(store: EventStore) -> None:
    assert await store.recall(REQUEST) is None


async def test_a_repeated_request_gets_the_first_answer(store: EventStore) -> None:
    await store.append(to("a/1", 0), idempotency=REQUEST)

    assert await store.recall(replace(REQUEST, response=b"")) == b"the answer"


async def test_an_answer_may_be_empty(store: EventStore) -> None:
    await store.append(to("a/1", 0), idempotency=replace(REQUEST, response=b""))

    assert await store.recall(REQUEST) == b""


async def test_a_repeated_request_is_not_carried_out_again(store: EventStore) -> None:
    await store.append(to("a/1", 0), idempotency=REQUEST)

    with pytest.raises(RequestRepeatedError) as repeated:
        await store.append(to("a/2", 0), idempotency=replace(REQUEST, response=b"another"))

    assert repeated.value.response == b"the answer"
    assert await store.last_position() == 1


async def test_a_different_request_under_the_same_id_is_refused(store: EventStore) -> None:
    await store.append(to("a/1", 0), idempotency=REQUEST)
    other = replace(REQUEST, request_hash=b"H" * 32)

    with pytest.raises(RequestIdReusedError, match="'r1' was used before") as refused:
        await store.recall(other)
    with pytest.raises(RequestIdReusedError):
        await store.append(to("a/2", 0), idempotency=other)

    assert refused.value.kind is Kind.INVALID
    assert [error.field for error in refused.value.fields] == ["request_id"]
    assert await store.last_position() == 1


@pytest.mark.parametrize(
    "other",
    [
        replace(REQUEST, org_id="org_2"),
        replace(REQUEST, actor="tok_2"),
        replace(REQUEST, method="/m.Service/Delete"),
        replace(REQUEST, request_id="r2"),
    ],
    ids=["organization", "actor", "method", "request id"],
)
async def test_request_ids_are_scoped(store: EventStore, other: Idempotency) -> None:
    await store.append(to("a/1", 0), idempotency=REQUEST)

    await store.append(to("a/2", 0), idempotency=other)

    assert await store.last_position() == 2


async def test_of_concurrent_duplicates_one_wins_and_the_others_recall(
    open_store: OpenStore,
) -> None:
    stores = [await open_store(), await open_store()]

    async def call(number: int) -> bytes:
        answer = b"answer %d" % number
        try:
            request = replace(REQUEST, response=answer)
            await stores[number % 2].append(to(f"a/{number}", 0), idempotency=request)
        except RequestRepeatedError as repeated:
            return repeated.response
        return answer

    answers = await asyncio.gather(*(call(number) for number in range(20)))

    assert len(set(answers)) == 1
    assert await stores[0].recall(REQUEST) == answers[0]
    assert await stores[0].last_position() == 1


async def test_a_refused_append_remembers_no_request(store: EventStore) -> None:
    await store.append(to("a/1", 0))

    with pytest.raises(StreamConflictError):
        await store.append(to("a/1", 0), idempotency=REQUEST)

    assert await store.recall(REQUEST) is None
    await store.append(to("a/1", 1), idempotency=REQUEST)
    assert await store.recall(REQUEST) == b"the answer"


async def test_a_repeated_request_is_recognized_before_its_conflict(store: EventStore) -> None:
    await store.append(to("a/1", 0), idempotency=REQUEST)

    with pytest.raises(RequestRepeatedError):
        await store.append(to("a/1", 0), idempotency=REQUEST)


async def test_a_request_that_changes_nothing_is_remembered_too(store: EventStore) -> None:
    assert await store.append(idempotency=REQUEST) == []

    assert await store.recall(REQUEST) == b"the answer"
    assert await store.last_position() == 0


async def test_requests_are_forgotten_after_a_while_and_no_sooner(
    open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engineshed.eventstore.forgetting._AT_ONCE", 3)  # several pages
    now = datetime(2026, 3, 1, tzinfo=UTC)
    store = await open_store(clock=lambda: now)
    requests = [replace(REQUEST, request_id=f"r{number}") for number in range(10)]
    for request in requests[:7]:
        await store.append(idempotency=request)
    now += REMEMBERED_FOR
    for request in requests[7:]:
        await store.append(idempotency=request)
    now += timedelta(microseconds=1)

    assert await forget(store, now - REMEMBERED_FOR) == 7

    for request in requests[:7]:
        assert await store.append(idempotency=request) == [], "it counts as a new one"
    for request in requests[7:]:
        with pytest.raises(RequestRepeatedError):
            await store.append(idempotency=request)
