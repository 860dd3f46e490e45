"""What goes into an event store and what comes out of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from google.protobuf.message import Message


@dataclass(frozen=True, slots=True)
class Metadata:
    """Who and why; it travels with the event, to the bus too."""

    actor: str  # id of a token, or the name of a service
    org_id: str  # whose object changed; `_platform` for what belongs to nobody
    request_id: str = ""  # the request that caused it
    traceparent: str = ""  # W3C trace context of the cause
    causation_id: str = ""  # id of the event that caused it


@dataclass(frozen=True, slots=True)
class RecordedEvent:
    """A fact and its place in the log."""

    position: int  # in the log of this service: gapless, from 1
    event_id: str
    stream: str  # `<aggregate>/<id>`
    version: int  # in the stream: gapless, from 1
    type: str  # full name of the protobuf message
    event: Message
    metadata: Metadata
    recorded_at: datetime  # UTC; never goes back along positions


@dataclass(frozen=True, slots=True)
class StreamAppend:
    """Events to add to one stream, decided on when it was at `expected_version`."""

    stream: str
    expected_version: int  # 0: the stream does not exist yet
    events: Sequence[Message]
    metadata: Metadata


@dataclass(frozen=True, slots=True)
class Idempotency:
    """What makes a repeated request recognizable, and how the first one was answered."""

    org_id: str
    actor: str
    method: str
    request_id: str
    request_hash: bytes  # sha256 of the canonical request
    response: bytes = b""  # the serialized answer, kept for the repeated request


@dataclass(frozen=True, slots=True)
class Selection:
    """Which events a reader wants; empty fields do not restrict."""

    stream: str = ""
    org_id: str = ""
    types: Sequence[str] = ()
