"""Several processes on one store, of which one leads: the lease, the term, and what is refused."""

import asyncio
import threading
from collections.abc import Awaitable, Callable

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from sqlalchemy import Connection, text
from tests.service.eventstore.servers import PostgresServer

from engineshed.eventstore import (
    EventStore,
    Leadership,
    Metadata,
    NotLeaderError,
    StoreUnavailableError,
    StreamAppend,
)

OpenStore = Callable[..., Awaitable[EventStore]]
ME = Metadata("test", "_platform")
STREAM = "test/leader"
LONG_S = 60.0


def append(number: int) -> StreamAppend:
    return StreamAppend(f"a/{number}", 0, [StringValue(value="x")], ME)


def member(
    store: EventStore, name: str, lease_s: float = LONG_S, gone: frozenset[str] = frozenset()
) -> Leadership:
    return Leadership(store, name, lease_s=lease_s, is_gone=gone.__contains__)


def win(one: Leadership) -> "asyncio.Task[int]":
    elected = one.win(STREAM, lambda term: StringValue(value=f"term {term}"), ME)
    return asyncio.create_task(elected)


async def expire(store: EventStore) -> None:
    """Let the lease run out, as time does."""

    def end(connection: Connection) -> None:
        connection.execute(text("UPDATE log_head SET leads_until = 1"))

    await store.append(write=end)


@pytest.fixture(autouse=True)
def _look_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engineshed.eventstore.leadership._LOOK_S", 0.01)


async def test_one_of_many_leads_in_the_first_term(open_store: OpenStore) -> None:
    members = [member(await open_store(), f"m{n}") for n in range(4)]
    waiting = [win(one) for one in members]
    done, pending = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)

    assert [task.result() for task in done] == [1]
    assert [one.leads for one in members].count(True) == 1
    leader = next(one for one in members if one.leads)
    assert leader.refusal() is None
    standby = next(one for one in members if not one.leads)
    assert "the leader is m" in str(standby.refusal()) or "nobody" in str(standby.refusal())
    for task in pending:
        task.cancel()


async def test_each_leader_begins_a_term_in_the_log(open_store: OpenStore) -> None:
    store = await open_store()
    for term in (1, 2, 3):
        leadership = member(await open_store(), f"m{term}")
        assert await win(leadership) == term
        await leadership.give_up()

    events = [event.event for event in await store.load(STREAM)]
    assert events == [StringValue(value=f"term {term}") for term in (1, 2, 3)]


async def test_a_standby_waits_for_as_long_as_the_lease_is_renewed(open_store: OpenStore) -> None:
    leader = member(await open_store(), "m1", lease_s=0.4)
    await win(leader)
    keeping = asyncio.create_task(leader.keep())
    standby = win(member(await open_store(), "m2"))
    await asyncio.wait({keeping, standby}, timeout=1.5)  # some leases long

    assert not keeping.done()
    assert not standby.done()
    keeping.cancel()
    assert await standby == 2


async def test_what_the_one_before_still_wants_to_write_is_refused(open_store: OpenStore) -> None:
    old_store, new_store = await open_store(), await open_store()
    old = member(old_store, "m1")
    await win(old)
    await old_store.append(append(1))
    await expire(new_store)
    assert await win(member(new_store, "m2")) == 2

    with pytest.raises(NotLeaderError, match="term 1 is over; this is term 2"):
        await old_store.append(append(2))
    with pytest.raises(NotLeaderError):
        await asyncio.gather(*(old_store.append(append(n)) for n in range(3, 9)))
    await new_store.append(append(2))
    assert [event.stream for event in await new_store.read(0)] == [STREAM, "a/1", STREAM, "a/2"]


async def test_a_leader_that_was_replaced_learns_it_when_it_renews(open_store: OpenStore) -> None:
    store = await open_store()
    old = member(await open_store(), "m1", lease_s=0.4)
    await win(old)
    await expire(store)
    await win(member(store, "m2"))

    with pytest.raises(NotLeaderError, match="term 1 is over"):
        await old.keep()


async def test_the_lease_of_a_process_that_is_gone_keeps_nobody_waiting(
    open_store: OpenStore,
) -> None:
    await win(member(await open_store(), "m1"))
    standby = win(member(await open_store(), "m2"))
    heir = win(member(await open_store(), "m3", gone=frozenset({"m1"})))

    assert await heir == 2
    assert not standby.done()
    standby.cancel()


async def test_a_leader_cannot_be_sure_of_itself_once_its_lease_has_run_out(
    open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    leader = member(await open_store(), "m1", lease_s=5)
    await win(leader)
    assert leader.leads
    now = asyncio.get_running_loop().time()
    monkeypatch.setattr("engineshed.eventstore.leadership.time.monotonic", lambda: now + 6)

    assert not leader.leads
    assert "led in term 1, and leads no more" in str(leader.refusal())


async def test_a_database_that_takes_no_writes_keeps_its_leader(
    open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await open_store()
    leader = member(store, "m1", lease_s=0.4)
    await win(leader)

    async def full(*_: object, **__: object) -> None:
        raise StoreUnavailableError("the disk is full")

    monkeypatch.setattr(store, "append", full)
    keeping = asyncio.create_task(leader.keep())
    await asyncio.wait({keeping}, timeout=1.5)  # some leases long

    assert not keeping.done()
    assert leader.leads
    keeping.cancel()


async def test_nobody_can_be_sure_of_a_database_that_does_not_answer(
    open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await open_store()
    leader = member(store, "m1", lease_s=0.4)
    await win(leader)

    async def away(*_: object, **__: object) -> None:
        raise StoreUnavailableError("no connection")

    monkeypatch.setattr(store, "append", away)
    monkeypatch.setattr(store, "query", away)

    with pytest.raises(NotLeaderError, match="the lease of term 1 has run out"):
        await leader.keep()


async def test_a_process_that_was_stopped_in_its_transaction_keeps_nobody_from_leading(
    postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = "SET LOCAL idle_in_transaction_session_timeout = '300ms'"
    monkeypatch.setattr("engineshed.eventstore.postgresql._LIMITS", limits)
    url = postgres_server.new_database()
    stopped, store = [await EventStore.open(url, service="test") for _ in range(2)]
    await win(member(stopped, "m1"))
    goes_on = threading.Event()
    appending = asyncio.create_task(stopped.append(append(1), write=lambda _: wait_for(goes_on)))
    while not await holds_the_head(store):
        await asyncio.sleep(0.01)

    assert await win(member(store, "m2", gone=frozenset({"m1"}))) == 2
    goes_on.set()
    with pytest.raises((StoreUnavailableError, NotLeaderError)):
        await appending
    assert await store.load("a/1") == []
    await stopped.close()
    await store.close()


def wait_for(event: threading.Event) -> None:
    event.wait(30)


async def holds_the_head(store: EventStore) -> bool:
    """Tell whether a transaction holds the row that every append locks."""
    query = text("SELECT count(*) FROM pg_locks WHERE mode = 'RowExclusiveLock'")
    return await store.query(lambda connection: bool(connection.scalar(query)))
