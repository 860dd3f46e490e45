"""Waiting for a database that is away."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import structlog

from engineshed.eventstore.errors import StoreUnavailableError

T = TypeVar("T")

# How soon a database that does not answer is asked again.
_RETRY_S: Final = 1.0

_log: Final[structlog.stdlib.BoundLogger] = structlog.get_logger()


async def until_available(work: Callable[[], Awaitable[T]]) -> T:
    """Return what `work` returns; it is called again and again while the database is away.

    For loops, which have nobody to tell that it is. A call whose commit was interrupted may have
    been carried out already when it is made again.
    """
    while True:
        try:
            return await work()
        except StoreUnavailableError as error:
            _log.warning("trying again later", error=error.message, retry_in_s=_RETRY_S)
            await asyncio.sleep(_RETRY_S)
