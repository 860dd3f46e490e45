"""An append-only log of events in a SQL database, and the relay that publishes what it holds.

Events are protobuf messages in streams named `<aggregate>/<id>`. `EventStore` appends them with
optimistic concurrency and keeps the service's read models in the same transaction; `Relay` brings
every committed event to a broker, in order and at least once.
"""

from engineshed.eventstore.errors import (
    EventTooLargeError,
    NotLeaderError,
    RequestIdReusedError,
    RequestRepeatedError,
    StoreUnavailableError,
    StreamConflictError,
    UnknownEventTypeError,
)
from engineshed.eventstore.handling import handle
from engineshed.eventstore.leadership import Leadership
from engineshed.eventstore.migrating import SchemaError, Tables
from engineshed.eventstore.model import Idempotency, Metadata, RecordedEvent, StreamAppend
from engineshed.eventstore.patience import until_available
from engineshed.eventstore.relay import EventSink, Relay
from engineshed.eventstore.rows import insert_rows
from engineshed.eventstore.store import EventStore

__all__ = [
    "EventSink",
    "EventStore",
    "EventTooLargeError",
    "Idempotency",
    "Leadership",
    "Metadata",
    "NotLeaderError",
    "RecordedEvent",
    "Relay",
    "RequestIdReusedError",
    "RequestRepeatedError",
    "SchemaError",
    "StoreUnavailableError",
    "StreamAppend",
    "StreamConflictError",
    "Tables",
    "UnknownEventTypeError",
    "handle",
    "insert_rows",
    "until_available",
]
