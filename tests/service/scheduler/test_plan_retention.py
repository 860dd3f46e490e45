"""Old plans are forgotten, and what is left can still be made again."""

from collections.abc import AsyncIterator, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import Connection
from tests.service.eventstore.servers import ON_EACH_DATABASE

from engineshed.api.scheduler.v1.plan_turn_pb2 import PlanTurn
from engineshed.eventstore import EventStore
from engineshed.scheduler import plan_store
from engineshed.scheduler.plan_retention import PlanRetention
from engineshed.scheduler.plan_store import PlanKey
from engineshed.scheduler.store import open_store

START = datetime(2026, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)


@pytest.fixture
async def store(tmp_path: Path, database_settings: dict[str, str]) -> AsyncIterator[EventStore]:
    url = database_settings.get("ENGINESHED_DATABASE_URL", f"sqlite:///{tmp_path}/scheduler.db")
    store = await open_store(url)
    yield store
    await store.close()


def turn(term: int, day: float, *, whole: bool) -> PlanTurn:
    turn = PlanTurn(term=term, whole=whole)
    turn.plan_time.FromDatetime(START + day * DAY)
    return turn


async def keep(store: EventStore, turns: Iterable[PlanTurn]) -> None:
    """Keep the plans of a term, from its first one on."""

    def write(connection: Connection) -> None:
        for number, one in enumerate(turns):
            plan_store.write(connection, number=number, turn=one)

    await store.append(write=write)


async def kept(store: EventStore) -> list[tuple[int, int]]:
    plans = await plan_store.page(store, PlanKey(0, 0), 1_000_000)
    return [(plan.key.term, plan.key.number) for plan in plans]


@ON_EACH_DATABASE
async def test_what_is_left_begins_with_a_plan_that_needs_none_before_it(
    store: EventStore,
) -> None:
    # More than are forgotten at once.
    await keep(store, [turn(1, one / 1_200, whole=one in (0, 700)) for one in range(1_200)])
    await keep(store, [turn(2, 5, whole=True)])
    retention = PlanRetention(store, 2 * DAY)

    assert await retention.forget(START + 2.9 * DAY) == 700
    assert (await kept(store))[0] == (1, 700)
    assert await retention.forget(START + 7.5 * DAY) == 500
    assert await kept(store) == [(2, 0)]
    assert await retention.forget(START + 99 * DAY) == 0, "the last whole one is needed"


async def test_nothing_is_forgotten_when_plans_are_kept_for_ever(store: EventStore) -> None:
    await keep(store, [turn(1, 0, whole=True)])
    await keep(store, [turn(2, 1, whole=True)])

    assert await PlanRetention(store, timedelta(0)).forget(START + 999 * DAY) == 0
    assert len(await kept(store)) == 2


async def test_a_plan_that_is_written_twice_is_there_once(store: EventStore) -> None:
    await keep(store, [turn(1, 0, whole=True)])
    await keep(store, [turn(1, 0, whole=True)])

    assert await kept(store) == [(1, 0)]
