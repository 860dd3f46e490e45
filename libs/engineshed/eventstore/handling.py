"""One command on one stream: load, decide, append; once more when somebody was quicker."""

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from google.protobuf.message import Message

from engineshed.eventstore.errors import StreamConflictError
from engineshed.eventstore.model import Idempotency, Metadata, RecordedEvent, StreamAppend
from engineshed.eventstore.store import EventStore

S = TypeVar("S")

# Each conflict means that another command on the same stream got through.
_ATTEMPTS: Final = 32

# Two processes that take turns at a lock would otherwise go on in step, and one always be late.
_LONGEST_PAUSE_S: Final = 0.02


async def handle(
    store: EventStore,
    stream: str,
    fold: Callable[[Sequence[RecordedEvent]], S],
    decide: Callable[[S], Sequence[Message]],
    metadata: Metadata,
    idempotency: Idempotency | None = None,
) -> tuple[S, list[RecordedEvent]]:
    """Record what `decide` makes of a stream's state; return the new state and what was recorded.

    Args:
        store: where the stream is.
        stream: its name.
        fold: makes the state of a history, which is empty for a stream that does not exist.
        decide: returns the events to record; none when nothing changes. It is called again,
            with the newer state, when another command was quicker.
        metadata: of the events.
        idempotency: the request behind it; it is remembered even when nothing changes.

    Raises:
        RequestRepeatedError: the request was carried out already; it carries the answer.
        RequestIdReusedError: the request's id was used for a different request.
        StreamConflictError: others were quicker again and again.
        StoreUnavailableError: the database takes no writes.

    """
    for attempt in range(1, _ATTEMPTS + 1):
        history = await store.load(stream)
        events = decide(fold(history))
        appends = [StreamAppend(stream, len(history), events, metadata)] if events else []
        if not appends and idempotency is None:
            return fold(history), []
        try:
            recorded = await store.append(*appends, idempotency=idempotency)
        except StreamConflictError:
            if attempt == _ATTEMPTS:
                raise
            if attempt > 1:
                await asyncio.sleep(random.uniform(0, _LONGEST_PAUSE_S))  # noqa: S311 - no secret
        else:
            return fold([*history, *recorded]), recorded
    raise AssertionError("the last attempt returns or raises")
