"""What the scheduler's database answers beside the log: lists, and the little that is no event."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from sqlalchemy import ColumnElement, Connection, and_, delete, insert, select, update

from engineshed.eventstore import EventStore
from engineshed.scheduler import tables

SERVICE: Final = "scheduler"

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Terminated:
    """What a gateway may have to be told again of an endpoint that is gone."""

    endpoint_id: str
    org_id: str
    region: str
    routing_key: str
    created_at: datetime


async def open_store(url: str) -> EventStore:
    """Open the scheduler's event store at an SQLAlchemy URL; what is missing is made."""
    return await EventStore.open(url, service=SERVICE, tables=tables.TABLES, project=tables.project)


async def endpoint_ids(
    store: EventStore, org_id: str, *, before: int | None, limit: int, show_terminated: bool
) -> list[tuple[int, str]]:
    """Return positions and ids of an organization's endpoints, newest first.

    Args:
        store: where they are.
        org_id: whose.
        before: only those created before this position.
        limit: how many at most.
        show_terminated: terminated ones too.

    """
    columns = tables.endpoints.c
    query = (
        select(columns.position, columns.endpoint_id)
        .where(columns.org_id == org_id)
        .order_by(columns.position.desc())
        .limit(limit)
    )
    if before is not None:
        query = query.where(columns.position < before)
    if not show_terminated:
        query = query.where(columns.terminated_at.is_(None))
    rows = await store.query(lambda connection: connection.execute(query).all())
    return [(position, endpoint_id) for position, endpoint_id in rows]


async def terminated_since(store: EventStore, moment: datetime) -> list[Terminated]:
    """Return the endpoints that were terminated after a moment."""
    columns = tables.endpoints.c
    query = select(
        columns.endpoint_id,
        columns.org_id,
        columns.region,
        columns.routing_key,
        columns.created_at,
    ).where(columns.terminated_at > to_moment(moment))
    rows = await store.query(lambda connection: connection.execute(query).all())
    return [Terminated(*row[:4], created_at=_from_moment(row[4])) for row in rows]


async def holds(store: EventStore) -> list[tuple[str, str]]:
    """Return who holds what at the catalog: ids of endpoints and of checkpoints."""
    query = select(tables.holds.c.endpoint_id, tables.holds.c.checkpoint_id)
    rows = await store.query(lambda connection: connection.execute(query).all())
    return [(endpoint_id, checkpoint_id) for endpoint_id, checkpoint_id in rows]


async def note_hold(store: EventStore, endpoint_id: str, checkpoint_id: str) -> None:
    """Note that an endpoint is going to hold a checkpoint, if that is not noted already.

    Raises:
        StoreUnavailableError: the database takes no writes.

    """
    condition = _hold(endpoint_id, checkpoint_id)

    def write(connection: Connection) -> None:
        if connection.execute(select(tables.holds).where(condition)).first() is None:
            row = {"endpoint_id": endpoint_id, "checkpoint_id": checkpoint_id}
            connection.execute(insert(tables.holds), row)

    await store.append(write=write)


async def forget_hold(store: EventStore, endpoint_id: str, checkpoint_id: str) -> None:
    """Note that a hold has been given back.

    Raises:
        StoreUnavailableError: the database takes no writes.

    """
    condition = _hold(endpoint_id, checkpoint_id)

    def write(connection: Connection) -> None:
        connection.execute(delete(tables.holds).where(condition))

    await store.append(write=write)


def _hold(endpoint_id: str, checkpoint_id: str) -> ColumnElement[bool]:
    columns = tables.holds.c
    return and_(columns.endpoint_id == endpoint_id, columns.checkpoint_id == checkpoint_id)


async def heard_times(store: EventStore) -> dict[str, datetime]:
    """Return when each node was last heard, as far as it was noted."""
    query = select(tables.heard.c.node_id, tables.heard.c.heard_at)
    rows = await store.query(lambda connection: connection.execute(query).all())
    return {node_id: _from_moment(moment) for node_id, moment in rows}


async def note_heard(store: EventStore, heard: Mapping[str, datetime]) -> None:
    """Note when nodes were last heard.

    Raises:
        StoreUnavailableError: the database takes no writes.

    """

    def write(connection: Connection) -> None:
        for node_id, heard_at in heard.items():
            moment = to_moment(heard_at)
            changed = connection.execute(
                update(tables.heard)
                .where(tables.heard.c.node_id == node_id)
                .values(heard_at=moment)
            )
            if changed.rowcount == 0:
                connection.execute(insert(tables.heard), {"node_id": node_id, "heard_at": moment})

    await store.append(write=write)


def to_moment(time: datetime) -> int:
    """Return a time as the tables have it: microseconds since 1970."""
    return (time - _EPOCH) // timedelta(microseconds=1)


def _from_moment(moment: int) -> datetime:
    return _EPOCH + timedelta(microseconds=moment)
