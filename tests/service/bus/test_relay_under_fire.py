"""Every committed event arrives as it was committed, in order, whatever becomes of the broker."""

import asyncio
import shutil
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from engineshed.bus import Bus, client, consume, ensure_streams, subject_of
from engineshed.eventstore import EventStore, relay

from .conftest import Broker, Connect, eventually
from .proxy import Proxy
from .service import Consumer, Service, as_message, stream

Fault = Callable[["Scene"], Awaitable[None]]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Deadlines that a test can pass."""
    monkeypatch.setattr(client, "HEARTBEAT", 1.0)
    monkeypatch.setattr(client, "CALL_DEADLINE", 0.5)
    monkeypatch.setattr(client, "CLOSE_DEADLINE", 0.2)
    monkeypatch.setattr(Bus.call, "__kwdefaults__", {"deadline": 0.5})
    monkeypatch.setattr(sys.modules["engineshed.bus.consume"], "ACK_WAIT", 1.0)
    monkeypatch.setattr(relay, "_LONGEST_PAUSE_S", 0.2)


class Scene:
    """A service, a broker, and the way between them."""

    def __init__(self, broker: Broker, way: Proxy, service: Service) -> None:
        self.broker = broker
        self.way = way
        self.service = service
        self.bus = service.bus

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
    scene = Scene(broker, way, Service(store, bus))
    background(scene.service.relay.run())
    yield scene
    way.go_on()
    await bus.close()
    await way.stop()
    await store.close()


async def arrived(scene: Scene) -> None:
    """Require that the stream is the log, once repeated ids are dropped."""
    await eventually(scene.service.published)
    log = await scene.service.log()
    assert await stream(scene.broker.urls["subscriber"]) == [as_message(one) for one in log]


async def connections_are_cut(scene: Scene) -> None:
    for _ in range(3):
        before = scene.bus.connections
        scene.way.cut()
        await scene.reconnected(before)


async def connections_are_cut_in_a_message(scene: Scene) -> None:
    for count in (1, 99, 333, 1001):
        before = scene.bus.connections
        scene.way.cut_after(count)
        await scene.service.write(5)
        await scene.reconnected(before)


async def the_network_swallows_all(scene: Scene) -> None:
    scene.way.hang()
    await scene.service.write(100)
    await eventually(lambda: not scene.bus.connected)
    scene.way.go_on()


async def answers_come_after_their_deadline(scene: Scene) -> None:
    interrupted = scene.service.relay.metrics.interruptions
    scene.way.answers_after = 0.7
    await scene.service.write(100)
    await eventually(lambda: scene.service.relay.metrics.interruptions > interrupted + 1)
    scene.way.answers_after = 0.0


async def the_disk_of_the_broker_is_full(scene: Scene) -> None:
    await scene.broker.restart_with(max_file_store=100_000)
    interrupted = scene.service.relay.metrics.interruptions
    await scene.service.write(300)
    await eventually(lambda: scene.service.relay.metrics.interruptions > interrupted + 1)
    assert not scene.service.published()
    await scene.broker.restart_with(max_file_store=10**9)


async def the_broker_is_killed(scene: Scene) -> None:
    scene.broker.kill()
    await scene.service.write(100)
    await scene.broker.start()


async def the_broker_hangs(scene: Scene) -> None:
    scene.broker.pause()
    await scene.service.write(100)
    await eventually(lambda: not scene.bus.connected)
    scene.broker.resume()


async def the_broker_loses_its_store(scene: Scene) -> None:
    scene.broker.kill()
    scene.broker.wipe()
    await scene.service.write(100)
    await scene.broker.start()


async def the_broker_returns_from_an_older_copy_of_its_store(scene: Scene) -> None:
    await eventually(scene.service.published)
    scene.broker.kill()
    copy = scene.copy_store()
    await scene.broker.start()
    await scene.service.write(300)
    await eventually(scene.service.published)
    scene.broker.kill()
    scene.restore(copy)
    await scene.service.write(100)
    await scene.broker.start()


@pytest.mark.parametrize(
    "fault",
    [
        connections_are_cut,
        connections_are_cut_in_a_message,
        the_network_swallows_all,
        answers_come_after_their_deadline,
        the_disk_of_the_broker_is_full,
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
    await scene.service.write(100)
    writing = background(scene.service.write_until(over))

    await fault(scene)
    over.set()
    await writing
    await scene.service.write(20)

    await arrived(scene)
    log = await scene.service.log()
    await eventually(lambda: consumer.has(log))


async def test_a_durable_consumer_goes_on_when_the_end_of_the_stream_is_lost(
    scene: Scene, connect: Connect, background
) -> None:
    """Messages are flushed to disk later than what is known of consumers: a host that dies."""
    consumer = Consumer()
    background(consume(await connect("catalog"), "catalog", [subject_of("scheduler")], consumer))
    await scene.service.write(100)
    await eventually(scene.service.published)
    scene.broker.kill()
    copy = scene.copy_store()
    await scene.broker.start()
    await scene.service.write(300)
    first = await scene.service.log()
    await eventually(lambda: consumer.has(first))
    scene.broker.stop()
    scene.restore(copy, but_consumers=True)
    await scene.broker.start()
    await scene.service.write(50)

    await arrived(scene)
    log = await scene.service.log()
    await eventually(lambda: consumer.has(log))
