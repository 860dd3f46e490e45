"""Holding what was recorded against what was published, and GPUs against their holders."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC

from google.protobuf.descriptor_pool import Default
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from engineshed.api.events.v1.event_service_pb2 import Event
from engineshed.api.scheduler.v1 import events_pb2 as scheduler


@dataclass(frozen=True, slots=True)
class Published:
    """A message as a subscriber gets it."""

    subject: str
    attributes: dict[str, str]  # CloudEvents', without ce-
    data: bytes

    @property
    def service(self) -> str:
        """Whose event it is."""
        return self.attributes["source"].rpartition("/")[2]


@dataclass(slots=True)
class Comparison:
    """How the events of all services compare."""

    committed: int = 0
    published: int = 0
    repeated: int = 0  # ids that came more than once; a consumer drops them
    missing: tuple[str, ...] = ()
    altered: tuple[str, ...] = ()
    never_committed: tuple[str, ...] = ()
    out_of_order: tuple[str, ...] = ()  # by their first coming, within their service


def compare(committed: Mapping[str, Sequence[Event]], published: Sequence[Published]) -> Comparison:
    """Compare each service's own log with what the broker holds."""
    first: dict[str, Published] = {}
    for message in published:
        first.setdefault(message.attributes["id"], message)
    recorded = {
        event.event_id: (service, event)
        for service, events in committed.items()
        for event in events
    }
    return Comparison(
        committed=len(recorded),
        published=len(published),
        repeated=len(published) - len(first),
        missing=tuple(recorded.keys() - first.keys()),
        altered=tuple(
            event_id
            for event_id, (service, event) in recorded.items()
            if event_id in first and first[event_id] != _as_published(service, event)
        ),
        never_committed=tuple(first.keys() - recorded.keys()),
        out_of_order=tuple(_out_of_order(first.values())),
    )


def gpus_held_twice(events: Iterable[Event]) -> list[str]:
    """Return the replicas that were given a GPU which another one still had."""
    held: dict[tuple[str, int], str] = {}
    twice: list[str] = []
    for event in events:
        match unpacked(event):
            case scheduler.ReplicaPlaced() as placed:
                for gpu in placed.gpus:
                    if (placed.node_id, gpu) in held:
                        twice.append(placed.replica_id)
                    held[placed.node_id, gpu] = placed.replica_id
            case scheduler.ReplicaStopped() | scheduler.ReplicaFailed() as ended:
                gone = ended.replica_id
                held = {where: who for where, who in held.items() if who != gone}
    return twice


def unpacked(event: Event) -> Message:
    """Return the message of an event."""
    message_class = GetMessageClass(Default().FindMessageTypeByName(event.data.TypeName()))
    return message_class.FromString(event.data.value)


def _as_published(service: str, event: Event) -> Published:
    aggregate, _, object_id = event.stream.partition("/")
    type_ = event.data.TypeName()
    kind = type_.rpartition(".")[2]
    time = event.recorded_at.ToDatetime(UTC).isoformat(timespec="microseconds")
    attributes = {
        "specversion": "1.0",
        "id": event.event_id,
        "source": f"/engineshed/{service}",
        "type": type_,
        "time": time.replace("+00:00", "Z"),
        "subject": event.stream,
        "datacontenttype": "application/protobuf",
        "org": event.org_id,
        "sequence": str(event.position),
        "streamversion": str(event.version),
        "actor": event.actor,
        "requestid": event.request_id,
        "causationid": event.causation_id,
        "traceparent": event.traceparent,
    }
    return Published(
        f"engineshed.events.v1.{service}.{event.org_id}.{aggregate}.{object_id}.{kind}",
        {name: value for name, value in attributes.items() if value},
        unpacked(event).SerializeToString(deterministic=True),
    )


def _out_of_order(published: Iterable[Published]) -> Iterable[str]:
    latest: Counter[str] = Counter()
    for message in published:
        position = int(message.attributes["sequence"])
        if position < latest[message.service]:
            yield message.attributes["id"]
        latest[message.service] = max(position, latest[message.service])
