"""A service as the broker sees it: a log that grows, its relay, and who reads what arrives."""

import asyncio
from contextlib import suppress

import nats
from nats.aio.client import Client
from nats.errors import TimeoutError as NatsTimeoutError

from engineshed.api.scheduler.v1.events_pb2 import EndpointCreated
from engineshed.bus import Bus, EventPublisher, ReceivedEvent
from engineshed.bus.events import headers, subject
from engineshed.eventstore import EventStore, Metadata, RecordedEvent, Relay, StreamAppend

from .conftest import DEADLINE

OBJECTS = 7

Message = tuple[str, dict[str, str], bytes]


class Service:
    """A scheduler that does nothing but record."""

    def __init__(self, store: EventStore, bus: Bus) -> None:
        self.bus = bus
        self.relay = Relay(store, EventPublisher(bus, "scheduler"))
        self._store = store
        self._written = 0
        self._writing = asyncio.Lock()

    async def write(self, count: int) -> None:
        """Commit so many events, of several objects in turn."""
        for _ in range(count):
            async with self._writing:
                version, one = divmod(self._written, OBJECTS)
                event = EndpointCreated(endpoint_id=f"ep_{one}", name=f"{self._written}" * 50)
                metadata = Metadata("tok_1", "org_1", request_id=f"request {self._written}")
                append = StreamAppend(f"endpoint/ep_{one}", version, [event], metadata)
                await self._store.append(append)
                self._written += 1

    async def write_until(self, over: asyncio.Event) -> None:
        """Commit one event after the other."""
        while not over.is_set():
            await self.write(1)
            await asyncio.sleep(0.002)

    async def log(self) -> list[RecordedEvent]:
        return await self._store.read(0, 10**6)

    def published(self) -> bool:
        """Tell whether the broker has acknowledged everything."""
        return self.relay.lag == 0


class Consumer:
    """A handler of events that drops repeated ids."""

    def __init__(self) -> None:
        self._seen: set[str] = set()

    async def __call__(self, event: ReceivedEvent) -> None:
        self._seen.add(event.event_id)

    def has(self, log: list[RecordedEvent]) -> bool:
        return self._seen >= {event.event_id for event in log}


async def stream(url: str) -> list[Message]:
    """Return what a plain subscriber reads, in its order, without repeated ids."""
    client = await nats.connect(url.split(","))
    try:
        async with asyncio.timeout(DEADLINE):
            while True:
                with suppress(NatsTimeoutError):  # a cluster may give the reader a node that died
                    return await _read(client)
    finally:
        await client.close()


async def _read(client: Client) -> list[Message]:
    first: dict[str, Message] = {}
    events = await client.jetstream().subscribe("engineshed.events.v1.>", ordered_consumer=True)
    more = True
    while more:
        message = await events.next_msg(timeout=2)
        attributes = dict(message.headers or {})
        del attributes["Nats-Expected-Stream"]
        first.setdefault(attributes["ce-id"], (message.subject, attributes, message.data))
        more = message.metadata.num_pending > 0
    return list(first.values())


def as_message(event: RecordedEvent) -> Message:
    """Return an event as it should arrive."""
    return (
        subject("scheduler", event),
        headers("scheduler", event),
        event.event.SerializeToString(deterministic=True),
    )
