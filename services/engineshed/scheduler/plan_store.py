"""The table of plans: written beside events, read forward, forgotten after a while."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final, NamedTuple

from sqlalchemy import Connection, Select, bindparam, delete, func, select, text, tuple_

from engineshed.api.scheduler.v1.plan_turn_pb2 import PlanTurn
from engineshed.eventstore import EventStore
from engineshed.runtime import from_timestamp
from engineshed.scheduler.store import to_moment
from engineshed.scheduler.tables import plans

_key: Final = tuple_(plans.c.term, plans.c.number)
_WRITE: Final = text(
    "INSERT INTO plans (term, number, planned_at, whole, data) "
    "VALUES (:term, :number, :planned_at, :whole, :data) ON CONFLICT DO NOTHING"
)
_REMOVE: Final = delete(plans).where(
    plans.c.term == bindparam("old_term"), plans.c.number == bindparam("old_number")
)


class PlanKey(NamedTuple):
    """Which plan: the later one is greater."""

    term: int
    number: int  # within the term


@dataclass(frozen=True, slots=True)
class KeptPlan:
    """A plan as it is kept."""

    key: PlanKey
    turn: PlanTurn


def write(connection: Connection, *, number: int, turn: PlanTurn) -> None:
    """Write a plan; once, however often it is written."""
    row = {
        "term": turn.term,
        "number": number,
        "planned_at": to_moment(from_timestamp(turn.plan_time)),
        "whole": turn.whole,
        "data": turn.SerializeToString(),
    }
    connection.execute(_WRITE, row)


async def beginning(store: EventStore, moment: datetime | None) -> PlanKey | None:
    """Return the plan from which those after a moment can be made again; None: there is none.

    That is the last up to the moment that needs none before it, or else the first.
    """
    whole = select(plans.c.term, plans.c.number).where(plans.c.whole)
    query = whole.order_by(plans.c.term, plans.c.number).limit(1)
    if moment is None:
        return await _find(store, query)
    before = whole.where(plans.c.planned_at <= to_moment(moment))
    last = before.order_by(plans.c.term.desc(), plans.c.number.desc()).limit(1)
    return await _find(store, last) or await _find(store, query)


async def count(
    store: EventStore, first: PlanKey, start: datetime | None, end: datetime | None
) -> int:
    """Return how many plans there are from one on, of those made between two moments."""
    query = select(func.count()).select_from(plans).where(_key >= first)
    if start is not None:
        query = query.where(plans.c.planned_at >= to_moment(start))
    if end is not None:
        query = query.where(plans.c.planned_at <= to_moment(end))
    return await store.query(lambda connection: connection.scalar(query) or 0)


async def page(store: EventStore, first: PlanKey, limit: int) -> list[KeptPlan]:
    """Return some plans, from one on, in order."""
    query = (
        select(plans.c.term, plans.c.number, plans.c.data)
        .where(_key >= first)
        .order_by(plans.c.term, plans.c.number)
        .limit(limit)
    )
    rows = await store.query(lambda connection: connection.execute(query).all())
    return [
        KeptPlan(PlanKey(term, number), PlanTurn.FromString(bytes(data)))
        for term, number, data in rows
    ]


async def forget(store: EventStore, before: datetime, limit: int) -> int:
    """Forget some of the plans that were made before a moment; return how many.

    What is left begins with one that needs none before it.

    Raises:
        DomainError: the database takes no writes now, or another scheduler leads.

    """
    kept = await beginning(store, before)
    if kept is None:
        return 0
    query = select(plans.c.term, plans.c.number).where(_key < kept).limit(limit)
    rows = await store.query(lambda connection: connection.execute(query).all())
    keys = [{"old_term": term, "old_number": number} for term, number in rows]
    if keys:
        await store.append(write=lambda connection: _remove(connection, keys))
    return len(keys)


def _remove(connection: Connection, keys: list[dict[str, int]]) -> None:
    connection.execute(_REMOVE, keys)


async def _find(store: EventStore, query: Select[tuple[int, int]]) -> PlanKey | None:
    row = await store.query(lambda connection: connection.execute(query).one_or_none())
    return PlanKey(row.term, row.number) if row else None
