"""Between events and the rows of the log."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, Final, TypeAlias

from google.protobuf.descriptor_pool import Default
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from sqlalchemy import Column

from engineshed.eventstore.errors import EventTooLargeError, UnknownEventTypeError
from engineshed.eventstore.model import Metadata, RecordedEvent
from engineshed.eventstore.schema import events

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
# Up to here a float tells any two microseconds apart: in the year 2112.
_EXACT: Final = 2**52

_MICROSECOND: Final = timedelta(microseconds=1)

# A broker carries messages up to 1 MiB by default, headers included.
MAX_EVENT_BYTES: Final = 768 * 1024

# Of all columns of `events`, in their order.
Row: TypeAlias = tuple[int, str, str, int, int | None, str, bytes, str, str, str, str, str, int]

# What `decode` expects, in this order.
COLUMNS: Final[Sequence[Column[Any]]] = [
    events.c.position,
    events.c.event_id,
    events.c.stream,
    events.c.version,
    events.c.type,
    events.c.data,
    events.c.actor,
    events.c.org_id,
    events.c.request_id,
    events.c.traceparent,
    events.c.causation_id,
    events.c.recorded_at,
]

# What a fold of the whole log reads, and no more: a log is long.
FOLD_COLUMNS: Final[Sequence[Column[Any]]] = [
    events.c.stream,
    events.c.type,
    events.c.data,
    events.c.recorded_at,
]


def to_moment(time: datetime) -> int:
    """Return an aware time as microseconds since 1970."""
    return (time - _EPOCH) // _MICROSECOND


def from_moment(moment: int) -> datetime:
    """Return microseconds since 1970 as a time, UTC."""
    if abs(moment) < _EXACT:
        return datetime.fromtimestamp(moment / 1_000_000, UTC)  # in a quarter of the time
    return _EPOCH + timedelta(microseconds=moment)


def encode(recorded: RecordedEvent, moment: int) -> Row:
    """Return the row of an event; `moment` is its `recorded_at`, which many share.

    Raises:
        EventTooLargeError: no broker would carry it, nor what comes after it.

    """
    data = recorded.event.SerializeToString(deterministic=True)
    if len(data) > MAX_EVENT_BYTES:
        raise EventTooLargeError(
            f"{recorded.type} of {recorded.stream} has {len(data)} bytes, "
            f"at most {MAX_EVENT_BYTES} are possible",
            stream=recorded.stream,
        )
    metadata = recorded.metadata
    return (
        recorded.position,
        recorded.event_id,
        recorded.stream,
        recorded.version,
        recorded.version - 1 or None,
        recorded.type,
        data,
        metadata.actor,
        metadata.org_id,
        metadata.request_id,
        metadata.traceparent,
        metadata.causation_id,
        moment,
    )


def decode(rows: Iterable[Sequence[Any]]) -> list[RecordedEvent]:
    """Return the events of rows of `COLUMNS`.

    Raises:
        UnknownEventTypeError: a row's type is not among the messages that this process imported.

    """
    return [
        RecordedEvent(
            position,
            event_id,
            stream,
            version,
            type_,
            message_class(type_).FromString(data),
            Metadata(actor, org_id, request_id, traceparent, causation_id),
            from_moment(moment),
        )
        for (
            position,
            event_id,
            stream,
            version,
            type_,
            data,
            actor,
            org_id,
            request_id,
            traceparent,
            causation_id,
            moment,
        ) in rows
    ]


@cache
def message_class(full_name: str) -> type[Message]:
    """Return the generated class of a message.

    Raises:
        UnknownEventTypeError: no imported module defines it.

    """
    try:
        return GetMessageClass(Default().FindMessageTypeByName(full_name))
    except KeyError as error:
        raise UnknownEventTypeError(
            f"the log holds an event of type {full_name}, which this process does not know: "
            "newer code wrote it (upgrade), or the module that defines it is not imported",
            type=full_name,
        ) from error
