"""Appends that wait together are committed together, and stay independent of each other."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from sqlalchemy import Connection, Engine, event

from engineshed.eventstore import EventStore, Metadata, StreamAppend, StreamConflictError

OpenStore = Callable[..., Awaitable[EventStore]]


def to(stream: str, expected_version: int = 0) -> StreamAppend:
    return StreamAppend(
        stream, expected_version, [StringValue(value="x")], Metadata("tok_1", "org_1")
    )


@contextmanager
def counted_commits() -> Iterator[list[Connection]]:
    commits: list[Connection] = []

    def committed(connection: Connection) -> None:
        commits.append(connection)

    event.listen(Engine, "commit", committed)
    yield commits
    event.remove(Engine, "commit", committed)


@contextmanager
def held_up(store: EventStore) -> Iterator[asyncio.Task[object]]:
    """Keep the writer busy with one append until the block ends, so that others gather."""
    release = threading.Event()

    def wait(_: Connection) -> None:
        release.wait(10)

    yield asyncio.create_task(store.append(write=wait))
    release.set()


async def test_what_waits_together_is_committed_together(store: EventStore) -> None:
    with counted_commits() as commits:
        with held_up(store) as first:
            await asyncio.sleep(0)  # it starts
            waiting = [asyncio.create_task(store.append(to(f"a/{n}"))) for n in range(100)]
            await asyncio.sleep(0)
        await asyncio.gather(first, *waiting)

    assert len(commits) == 2
    assert await store.last_position() == 100


async def test_an_append_is_acknowledged_only_after_the_commit(
    store: EventStore, open_store: OpenStore
) -> None:
    reader = await open_store()

    async def append(number: int) -> None:
        (recorded,) = await store.append(to(f"a/{number}"))
        assert await reader.load(f"a/{number}") == [recorded]

    await asyncio.gather(*(append(number) for number in range(50)))


async def test_a_conflict_costs_its_neighbours_nothing(store: EventStore) -> None:
    await store.append(to("a/taken"))

    with counted_commits() as commits:
        with held_up(store) as first:
            await asyncio.sleep(0)
            names = [f"a/{n}" if n % 10 else "a/taken" for n in range(50)]
            waiting = [asyncio.create_task(store.append(to(name))) for name in names]
            await asyncio.sleep(0)
        await first
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)

    assert len(commits) == 2
    assert sum(isinstance(outcome, StreamConflictError) for outcome in outcomes) == 5
    assert sum(isinstance(outcome, list) for outcome in outcomes) == 45
    positions = [event.position for event in await store.read(0)]
    assert positions == list(range(1, 47))


async def test_appends_to_one_stream_can_wait_together(store: EventStore) -> None:
    with held_up(store):
        await asyncio.sleep(0)
        waiting = [asyncio.create_task(store.append(to("a/1", n))) for n in range(20)]
        await asyncio.sleep(0)
    await asyncio.gather(*waiting)

    assert [event.version for event in await store.load("a/1")] == list(range(1, 21))


async def test_a_cancelled_caller_disturbs_nobody(store: EventStore) -> None:
    with held_up(store) as first:
        await asyncio.sleep(0)
        waiting = [asyncio.create_task(store.append(to(f"a/{n}"))) for n in range(30)]
        await asyncio.sleep(0)
        for task in waiting[::3]:
            task.cancel()
        first.cancel()
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)

    assert all(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes[::3])
    assert all(isinstance(outcome, list) for outcome in outcomes[1::3] + outcomes[2::3])
    assert len(await store.append(to("b/1"))) == 1
    positions = [event.position for event in await store.read(0)]
    assert positions == list(range(1, len(positions) + 1))


@pytest.mark.parametrize("writers", [64])
async def test_many_writers_keep_every_promise_at_once(store: EventStore, writers: int) -> None:
    async def write(number: int) -> None:
        for version in range(10):
            await store.append(to(f"a/{number}", version))
            with pytest.raises(StreamConflictError):
                await store.append(to(f"a/{number}", version))

    await asyncio.gather(*(write(number) for number in range(writers)))

    events = await store.read(0, 10_000)
    assert [event.position for event in events] == list(range(1, writers * 10 + 1))
    assert len({event.event_id for event in events}) == len(events)
    times = [event.recorded_at for event in events]
    assert times == sorted(times)
