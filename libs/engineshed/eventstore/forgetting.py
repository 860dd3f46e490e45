"""Forgetting how old requests were answered: a page at a time, so that nobody notices.

An index by age would make every append dearer, for something that has time. So the table is gone
through in the order of its key, by the readers; only what is really removed takes the writer.
"""

import asyncio
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import structlog
from sqlalchemy import Connection, bindparam, delete, select, tuple_

from engineshed.errors import DomainError
from engineshed.eventstore.codec import to_moment
from engineshed.eventstore.schema import requests

if TYPE_CHECKING:
    from engineshed.eventstore.store import EventStore

# A request that comes again later than this counts as a new one; the protos say so.
REMEMBERED_FOR: Final = timedelta(days=7)

_AT_ONCE: Final = 500  # requests that are looked at, and so the most that are removed together
_BETWEEN_PAGES_S: Final = 1.0
_BETWEEN_PASSES_S: Final = 3600.0

_KEY: Final = list(requests.primary_key.columns)
_Key: TypeAlias = tuple[Any, ...]
_FIRST: Final[_Key] = ("",) * len(_KEY)
_REMOVE: Final = delete(requests).where(
    *(column == bindparam(f"old_{column.name}") for column in _KEY)
)

_log: Final[structlog.stdlib.BoundLogger] = structlog.get_logger()


async def keep_forgetting(store: "EventStore") -> None:
    """Remove what is too old, again and again, until cancelled."""
    while True:
        await asyncio.sleep(_BETWEEN_PASSES_S)
        try:
            forgotten = await forget(store, store.now() - REMEMBERED_FOR, _BETWEEN_PAGES_S)
        except DomainError as error:  # the next pass does it
            _log.info("old requests not forgotten yet", error=error.message)
        else:
            _log.info("old requests forgotten", requests=forgotten)


async def forget(store: "EventStore", before: datetime, pause_s: float = 0.0) -> int:
    """Remove the requests that were answered before a moment; return how many.

    Raises:
        StoreUnavailableError: the database does not answer.
        NotLeaderError: another process leads.

    """
    forgotten = 0
    after: _Key | None = _FIRST
    while after is not None:
        old, after = await store.query(partial(_page, after=after, before=before))
        if old:
            rows = [{f"old_{c.name}": one for c, one in zip(_KEY, key, strict=True)} for key in old]
            await store.append(write=partial(_remove, rows=rows))
            forgotten += len(old)
        await asyncio.sleep(pause_s)
    return forgotten


def _page(
    connection: Connection, after: _Key | None, before: datetime
) -> tuple[list[_Key], _Key | None]:
    """Return which of the next requests are old, and the last of them; None: there are no more."""
    query = (
        select(*_KEY, requests.c.recorded_at)
        .where(tuple_(*_KEY) > tuple_(*(after or _FIRST)))
        .order_by(*_KEY)
        .limit(_AT_ONCE)
    )
    rows = connection.execute(query).all()
    moment = to_moment(before)
    old = [tuple(row[:-1]) for row in rows if row[-1] < moment]
    return old, tuple(rows[-1][:-1]) if len(rows) == _AT_ONCE else None


def _remove(connection: Connection, rows: list[dict[str, Any]]) -> None:
    connection.execute(_REMOVE, rows)
