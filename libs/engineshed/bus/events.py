"""How an event travels: its subject, its headers, and its way back from them.

Events are CloudEvents 1.0 in NATS binary mode: every attribute is a header `ce-<attribute>`,
percent-encoded as in CloudEvents' HTTP binding, and the protobuf message is the payload.
(A `Content-Type` header would mean structured mode, so there is none.)
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final
from urllib.parse import quote, unquote

from google.protobuf.descriptor_pool import Default
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass
from nats.aio.msg import Msg

from engineshed.bus.errors import UnreadableEventError

if TYPE_CHECKING:  # gateways and agents use the bus without a database's libraries
    from engineshed.eventstore import RecordedEvent

PREFIX: Final = "engineshed.events.v1"
CONTENT_TYPE: Final = "application/protobuf"

# All of printable ASCII but the space, the double quote and the percent sign.
_UNQUOTED: Final = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in '"%')
_PLAIN: Final = re.compile(f"[{re.escape(_UNQUOTED)}]*")


def subject_of(
    service: str, *, org: str = "*", aggregate: str = "*", object_id: str = "*", kind: str = "*"
) -> str:
    """Return the subject of events; what is not given stays a wildcard, to subscribe with.

    Args:
        service: whose events, e.g. `scheduler`; `*` for all.
        org: organization id, or `_platform`.
        aggregate: `endpoint`, `checkpoint`, …
        object_id: id of the object that changed.
        kind: the event's name without its package, e.g. `EndpointCreated`.

    Raises:
        ValueError: a part is empty or would be more than one token of a subject.

    """
    tokens = (service, org, aggregate, object_id, kind)
    for token in tokens:
        if not token or any(character in token for character in ". \t\r\n>"):
            raise ValueError(f"{token!r} cannot be part of an event's subject")
    return ".".join((PREFIX, *tokens))


def subject(service: str, event: "RecordedEvent") -> str:
    """Return the subject that `event` of `service` is published on."""
    aggregate, _, object_id = event.stream.partition("/")
    return subject_of(
        service,
        org=event.metadata.org_id,
        aggregate=aggregate,
        object_id=object_id,
        kind=event.type.rpartition(".")[2],
    )


def headers(service: str, event: "RecordedEvent") -> dict[str, str]:
    """Return the headers of `event`: CloudEvents attributes, and the id that drops duplicates."""
    metadata = event.metadata
    attributes = {
        "specversion": "1.0",
        "id": event.event_id,
        "source": f"/engineshed/{service}",
        "type": event.type,
        "time": _rfc3339(event.recorded_at),
        "subject": event.stream,
        "datacontenttype": CONTENT_TYPE,
        "org": metadata.org_id,
        "sequence": str(event.position),
        "streamversion": str(event.version),
        "actor": metadata.actor,
        "requestid": metadata.request_id,
        "causationid": metadata.causation_id,
        "traceparent": metadata.traceparent,
    }
    encoded = {f"ce-{name}": _encoded(value) for name, value in attributes.items() if value}
    return {**encoded, "Nats-Msg-Id": event.event_id}


def _encoded(value: str) -> str:
    # Hardly any needs it, and to find that out by `quote` takes a tenth of publishing an event.
    return value if _PLAIN.fullmatch(value) else quote(value, safe=_UNQUOTED)


@dataclass(frozen=True, slots=True)
class ReceivedEvent:
    """An event as it came from the bus: at least once, so `event_id` tells repeated ones."""

    event_id: str
    service: str  # whose event store it comes from
    position: int  # in that service's log
    stream: str  # `<aggregate>/<id>`
    version: int  # in that stream
    type: str  # full name of the protobuf message
    event: Message
    org_id: str
    actor: str
    request_id: str
    causation_id: str
    traceparent: str
    recorded_at: datetime


def received(message: Msg) -> ReceivedEvent:
    """Return the event that a message of the stream carries.

    Raises:
        UnreadableEventError: it lacks an attribute, or its type is not among the messages that
            this process has imported (a newer service sent it).

    """
    attributes = {
        name.lower().removeprefix("ce-"): unquote(value)
        for name, value in (message.headers or {}).items()
        if name.lower().startswith("ce-")
    }
    try:
        return _from_attributes(attributes, message.data)
    except (KeyError, ValueError, DecodeError) as error:
        raise UnreadableEventError(
            f"message on {message.subject} is no event that this process can read: {error!r}",
            subject=message.subject,
        ) from error


def position_of(attributes: Mapping[str, str]) -> int:
    """Return the position that an event's headers state."""
    return int(attributes["ce-sequence"])


def _from_attributes(attributes: Mapping[str, str], data: bytes) -> ReceivedEvent:
    type_ = attributes["type"]
    message_class = GetMessageClass(Default().FindMessageTypeByName(type_))
    return ReceivedEvent(
        event_id=attributes["id"],
        service=attributes["source"].removeprefix("/engineshed/"),
        position=int(attributes["sequence"]),
        stream=attributes["subject"],
        version=int(attributes["streamversion"]),
        type=type_,
        event=message_class.FromString(data),
        org_id=attributes["org"],
        actor=attributes.get("actor", ""),
        request_id=attributes.get("requestid", ""),
        causation_id=attributes.get("causationid", ""),
        traceparent=attributes.get("traceparent", ""),
        recorded_at=datetime.fromisoformat(attributes["time"]),
    )


def _rfc3339(time: datetime) -> str:
    return time.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
