"""From a command to recorded events: what all of the catalog's services do the same way."""

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, cast

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from engineshed.api.catalog.v1 import checkpoint_service_pb2 as pb
from engineshed.catalog.domain import checkpoint, record, token
from engineshed.catalog.store import SERVICE
from engineshed.errors import InvalidFieldError
from engineshed.eventstore import EventStore, Idempotency, Metadata, RecordedEvent, handle
from engineshed.rpc import Call
from engineshed.runtime import to_timestamp


def by_caller(call: Call, org_id: str) -> Metadata:
    """Return the metadata of events that a call causes on an object of `org_id`."""
    return Metadata(call.principal.name, org_id, call.request_id, call.traceparent)


def by_catalog(org_id: str) -> Metadata:
    """Return the metadata of events that the catalog causes by itself."""
    return Metadata(SERVICE, org_id)


def once(call: Call, method: str, request: Any, response: str = "") -> Idempotency | None:  # noqa: ANN401 - any request with a request_id
    """Return what makes a repeated call recognizable; None when it brings no request_id.

    Args:
        call: the call.
        method: its name.
        request: its message.
        response: the id of the object that it makes, by which its answer is found again.

    """
    if not request.request_id:
        return None
    content = request.SerializeToString(deterministic=True)
    return Idempotency(
        org_id=call.principal.org_id,
        actor=call.principal.name,
        method=method,
        request_id=request.request_id,
        request_hash=hashlib.sha256(content).digest(),
        response=response.encode(),
    )


async def recall(events: EventStore, idempotency: Idempotency | None) -> str | None:
    """Return the id of what a repeated call made; None when it is the first one."""
    found = await events.recall(idempotency) if idempotency else None
    return None if found is None else found.decode()


def fold_token(history: Sequence[RecordedEvent]) -> token.Token | None:
    """Return what a token's events have made of it."""
    state: token.Token | None = None
    for recorded in history:
        state = token.evolve(state, cast(token.Event, recorded.event))
    return state


def fold_checkpoint(history: Sequence[RecordedEvent]) -> checkpoint.Checkpoint | None:
    """Return what a checkpoint's events have made of it."""
    state: checkpoint.Checkpoint | None = None
    for recorded in history:
        state = checkpoint.evolve(state, cast(checkpoint.Event, recorded.event))
    return state


def fold_record(history: Sequence[RecordedEvent]) -> pb.Checkpoint | None:
    """Return the record that a checkpoint's events have made."""
    state: pb.Checkpoint | None = None
    for recorded in history:
        event = cast(checkpoint.Event, recorded.event)
        state = record.fold(state, event, to_timestamp(recorded.recorded_at))
    return state


async def change_checkpoint(
    events: EventStore, checkpoint_id: str, command: checkpoint.Command, metadata: Metadata
) -> list[RecordedEvent]:
    """Carry out a command on a checkpoint that exists or not; return what was recorded.

    Raises:
        DomainError: the checkpoint's state refuses it.

    """

    def decide(state: checkpoint.Checkpoint | None) -> Sequence[Message]:
        return checkpoint.decide(state, command)

    stream = checkpoint.stream_of(checkpoint_id)
    _, recorded = await handle(events, stream, fold_checkpoint, decide, metadata)
    return recorded


def moment_of(stamp: Timestamp, field: str) -> datetime:
    """Return the moment in a request's field.

    Raises:
        InvalidFieldError: it is beyond what a calendar has.

    """
    try:
        return stamp.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError) as error:
        raise InvalidFieldError.of(
            field, "it is not a moment between the years 1 and 9999"
        ) from error
