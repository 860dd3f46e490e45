"""Every committed event arrives as it was committed, in order, whatever becomes of the broker."""

import asyncio
import shutil
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from nats.js import JetStreamContext
from nats.js.api import ConsumerConfig, DeliverPolicy

from engineshed.api.scheduler.v1.events_pb2 import EndpointCreated
from engineshed.bus import (
    Bus,
    EventPublisher,
    ReceivedEvent,
    client,
    consume,
    ensure_streams,
    subject_of,
)
from engineshed.bus.events import headers, subject
from engineshed.bus.reading import reading
from engineshed.eventstore import EventStore, Metadata, RecordedEvent, Relay, StreamAppend, relay

from .conftest import Broker, Connect, eventually
from .proxy import Proxy

EVENTS = "ENGINESHED_EVENTS"
OBJECTS = 7

Message = tuple[str, dict[str, str], bytes]
Fault = Callable[["Scene"], Awaitable[None]]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Deadlines that a test can pass."""
    monkeypatch.setattr(client, "HEARTBEAT", 0.2)
    monkeypatch.setattr(client, "CALL_DEADLINE", 1.0)
    monkeypatch.setattr(client, "CLOSE_DEADLINE", 0.2)
    monkeypatch.setattr(Bus.call, "__kwdefaults__", {"deadline": 0.5})
    monkeypatch.setattr(sys.modules["engineshed.bus.consume"], "ACK_WAIT", 1.0)
    monkeypatch.setattr(relay, "_LONGEST_PAUSE_S", 0.2)


class Scene:
    """A service with its log and its relay, a broker, and the way between them."""

    def __init__(self, broker: Broker, store: EventStore, way: Proxy, bus: Bus) -> None:
        self.broker = broker
        self.store = store
        self.way = way
        self.bus = bus
        self.relay = Relay(store, EventPublisher(bus, "scheduler"))
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
                await self.store.append(append)
                self._written += 1

    async def write_until(self, over: asyncio.Event) -> None:
        while not over.is_set():
            await self.write(1)
            await asyncio.sleep(0.002)

    async def log(self) -> list[RecordedEvent]:
        return await self.store.read(0, 10**6)

    def published(self) -> bool:
        """Tell whether the broker has acknowledged everything."""
        return self.relay.lag == 0

    async def reconnected(self, before: int) -> None:
        """Return once there is a connection after the one with the number `before`."""
        await eventually(lambda: self.bus.connections > before)

    def copy_store(self) -> Path:
        """Copy what the broker has stored; it must not run."""
        copy = self.broker.state_dir / "copy"
        shutil.copytree(self._stored, copy)
        return copy

    def restore(self, copy: Path, *, but_consumers: bool = False) -> None:
        """Bring a copy back, of the messages alone if the consumers' state is to stay."""
        shutil.copytree(self._stored, now := self.broker.state_dir / "now")
        shutil.rmtree(self._stored)
        shutil.copytree(copy, self._stored)
        if but_consumers:
            for folder in now.rglob("obs"):
                shutil.copytree(folder, self._stored / folder.relative_to(now), dirs_exist_ok=True)

    @property
    def _stored(self) -> Path:
        return self.broker.state_dir / "nats" / "store"


@pytest.fixture
async def scene(broker: Broker, tmp_path: Path, background) -> AsyncIterator[Scene]:
    way = Proxy(broker.port)
    url = broker.urls["scheduler"].replace(str(broker.port), str(await way.start()))
    bus = await Bus.connect(url, name="scheduler")
    bus.on_connect(lambda: ensure_streams(bus))
    store = await EventStore.open(f"sqlite:///{tmp_path}/scheduler.db", service="scheduler")
    scene = Scene(broker, store, way, bus)
    background(scene.relay.run())
    yield scene
    way.go_on()
    await bus.close()
    await way.stop()
    await store.close()


async def stream(broker: Broker) -> list[Message]:
    """Return what the broker holds, in its order."""
    bus = await Bus.connect(broker.urls["admin"], name="admin")
    found: list[Message] = []

    async def read(js: JetStreamContext) -> None:
        async with reading(js, EVENTS, ConsumerConfig(deliver_policy=DeliverPolicy.ALL)) as reader:
            while reader.pending:
                for message in await reader.batch():
                    attributes = dict(message.headers or {})
                    del attributes["Nats-Expected-Stream"]
                    found.append((message.subject, attributes, message.data))

    try:
        await bus.wait_connected()
        await bus.call(read, deadline=20)
    finally:
        await bus.close()
    return found


def as_message(event: RecordedEvent) -> Message:
    return (
        subject("scheduler", event),
        headers("scheduler", event),
        event.event.SerializeToString(deterministic=True),
    )


async def arrived(scene: Scene) -> None:
    """Require that the stream is the log, once repeated ids are dropped."""
    await eventually(scene.published)
    first: dict[str, Message] = {}
    for message in await stream(scene.broker):
        first.setdefault(message[1]["ce-id"], message)
    assert list(first.values()) == [as_message(event) for event in await scene.log()]


class Consumer:
    """Somebody with a durable consumer, who drops repeated ids."""

    def __init__(self) -> None:
        self.events: dict[str, ReceivedEvent] = {}

    async def __call__(self, event: ReceivedEvent) -> None:
        self.events.setdefault(event.event_id, event)

    async def has(self, log: list[RecordedEvent]) -> bool:
        return self.events.keys() >= {event.event_id for event in log}


async def connections_are_cut(scene: Scene) -> None:
    for _ in range(3):
        before = scene.bus.connections
        scene.way.cut()
        await scene.reconnected(before)


async def connections_are_cut_in_a_message(scene: Scene) -> None:
    for count in (1, 99, 333, 1001):
        before = scene.bus.connections
        scene.way.cut_after(count)
        await scene.write(5)
        await scene.reconnected(before)


async def the_network_swallows_all(scene: Scene) -> None:
    scene.way.hang()
    await scene.write(100)
    await eventually(lambda: not scene.bus.connected)
    scene.way.go_on()


async def answers_come_after_their_deadline(scene: Scene) -> None:
    interrupted = scene.relay.metrics.interruptions
    scene.way.answers_after = 0.7
    await scene.write(100)
    await eventually(lambda: scene.relay.metrics.interruptions > interrupted + 1)
    scene.way.answers_after = 0.0


async def the_broker_is_killed(scene: Scene) -> None:
    scene.broker.kill()
    await scene.write(100)
    await scene.broker.start()


async def the_broker_hangs(scene: Scene) -> None:
    scene.broker.pause()
    await scene.write(100)
    await eventually(lambda: not scene.bus.connected)
    scene.broker.resume()


async def the_broker_loses_its_store(scene: Scene) -> None:
    scene.broker.kill()
    scene.broker.wipe()
    await scene.write(100)
    await scene.broker.start()


async def the_broker_returns_from_an_older_copy_of_its_store(scene: Scene) -> None:
    await eventually(scene.published)
    scene.broker.kill()
    copy = scene.copy_store()
    await scene.broker.start()
    await scene.write(300)
    await eventually(scene.published)
    scene.broker.kill()
    scene.restore(copy)
    await scene.write(100)
    await scene.broker.start()


@pytest.mark.parametrize(
    "fault",
    [
        connections_are_cut,
        connections_are_cut_in_a_message,
        the_network_swallows_all,
        answers_come_after_their_deadline,
        the_broker_is_killed,
        the_broker_hangs,
        the_broker_loses_its_store,
        the_broker_returns_from_an_older_copy_of_its_store,
    ],
)
async def test_every_event_arrives_although(
    scene: Scene, connect: Connect, fault: Fault, background
) -> None:
    consumer, over = Consumer(), asyncio.Event()
    background(consume(await connect("catalog"), "catalog", [subject_of("scheduler")], consumer))
    await scene.write(100)
    writing = background(scene.write_until(over))

    await fault(scene)
    over.set()
    await writing
    await scene.write(20)

    await arrived(scene)
    log = await scene.log()
    await eventually(lambda: consumer.has(log))


async def test_a_durable_consumer_goes_on_when_the_end_of_the_stream_is_lost(
    scene: Scene, connect: Connect, background
) -> None:
    """Messages are flushed to disk later than what is known of consumers: a host that dies."""
    consumer = Consumer()
    background(consume(await connect("catalog"), "catalog", [subject_of("scheduler")], consumer))
    await scene.write(100)
    await eventually(scene.published)
    scene.broker.kill()
    copy = scene.copy_store()
    await scene.broker.start()
    await scene.write(300)
    first = await scene.log()
    await eventually(lambda: consumer.has(first))
    scene.broker.stop()
    scene.restore(copy, but_consumers=True)
    await scene.broker.start()
    await scene.write(50)

    await arrived(scene)
    log = await scene.log()
    await eventually(lambda: consumer.has(log))
