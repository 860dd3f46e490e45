"""The queries on the log. Each runs in the caller's transaction."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, func, select

from engineshed.errors import FieldError
from engineshed.eventstore import codec
from engineshed.eventstore.errors import RequestIdReusedError
from engineshed.eventstore.model import Idempotency, RecordedEvent, Selection
from engineshed.eventstore.schema import cursors, events, log_head, requests


@dataclass(frozen=True, slots=True)
class Page:
    """Selected events in order of position, and how far the log has been looked through."""

    events: list[RecordedEvent]
    through: int  # every selected event up to this position has been seen


def page(connection: Connection, after: int, limit: int, selection: Selection) -> Page:
    """Return up to `limit` selected events after a position."""
    head = head_position(connection)
    if after >= head:
        return Page([], after)
    query = (
        select(*codec.COLUMNS)
        .where(events.c.position > after, events.c.position <= head)
        .order_by(events.c.position)
        .limit(limit)
    )
    if selection.stream:
        query = query.where(events.c.stream == selection.stream)
    if selection.org_id:
        query = query.where(events.c.org_id == selection.org_id)
    if selection.types:
        query = query.where(events.c.type.in_(selection.types))
    found = codec.decode(connection.execute(query))
    return Page(found, found[-1].position if len(found) == limit else head)


def fold_rows(connection: Connection, after: int, limit: int) -> Iterator[tuple[Any, ...]]:
    """Yield up to `limit` rows of `FOLD_COLUMNS` after a position, in order."""
    query = (
        select(*codec.FOLD_COLUMNS)
        .where(events.c.position > after)
        .order_by(events.c.position)
        .limit(limit)
    )
    cursor: Any = connection.execute(query).cursor
    return iter(cursor)  # the driver's own tuples: SQLAlchemy's rows take longer to make


def stream(connection: Connection, name: str, as_of: datetime | None) -> list[RecordedEvent]:
    """Return a stream's events, those recorded up to and at `as_of`."""
    query = select(*codec.COLUMNS).where(events.c.stream == name).order_by(events.c.version)
    if as_of is not None:
        query = query.where(events.c.recorded_at <= codec.to_moment(as_of))
    return codec.decode(connection.execute(query))


def stream_version(connection: Connection, name: str) -> int:
    """Return a stream's version; 0 when it does not exist."""
    query = select(func.max(events.c.version)).where(events.c.stream == name)
    return connection.scalar(query) or 0


def has_event(connection: Connection, event_id: str) -> bool:
    """Tell whether an event was recorded."""
    query = select(events.c.position).where(events.c.event_id == event_id)
    return connection.scalar(query) is not None


def head_position(connection: Connection) -> int:
    """Return the last position of the log; 0 when it is empty."""
    position: int = connection.scalars(select(log_head.c.position)).one()
    return position


def answer(connection: Connection, request: Idempotency) -> bytes | None:
    """Return what a request was answered when it was carried out; None when it never was.

    Raises:
        RequestIdReusedError: its id was used for a request that said something else.

    """
    query = select(requests.c.request_hash, requests.c.response).where(
        requests.c.org_id == request.org_id,
        requests.c.actor == request.actor,
        requests.c.method == request.method,
        requests.c.request_id == request.request_id,
    )
    row = connection.execute(query).one_or_none()
    if row is None:
        return None
    request_hash, response = row
    if request_hash != request.request_hash:
        raise RequestIdReusedError(
            f"request_id {request.request_id!r} was used before for a different request; "
            "take a new one",
            fields=[FieldError("request_id", "already used for a different request")],
            request_id=request.request_id,
        )
    return bytes(response)


def cursor(connection: Connection, name: str) -> int:
    """Return the position stored under a name; 0 when there is none."""
    return connection.scalar(select(cursors.c.position).where(cursors.c.name == name)) or 0
