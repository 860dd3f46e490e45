"""A real broker of one's own for every test, as the embedded stack configures it."""

import asyncio
import inspect
import itertools
import json
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from nats.js import JetStreamContext
from tests.ports import a_free_port as a_free_port

from engineshed.api.scheduler.v1.events_pb2 import EndpointCreated
from engineshed.bus import Bus
from engineshed.bus.embedded import command, config_path, write_config
from engineshed.eventstore import Metadata, RecordedEvent

DEADLINE = 20.0

Connect = Callable[[str], Awaitable[Bus]]


async def eventually(condition: Callable[[], object]) -> None:
    """Return once `condition` holds; it may be a coroutine function."""
    async with asyncio.timeout(DEADLINE):
        while True:
            result = condition()
            if await result if inspect.isawaitable(result) else result:
                return
            await asyncio.sleep(0.01)


class Broker:
    """A nats-server process and its state directory."""

    def __init__(self, state_dir: Path) -> None:
        self.state_dir = state_dir
        self.port = a_free_port()
        self.urls = {**write_config(state_dir, self.port).urls, "admin": self._add_admin()}
        self._process: subprocess.Popen[bytes] | None = None

    def _add_admin(self) -> str:
        """Add a user who may do what no service may: break things."""
        path = config_path(self.state_dir)
        config = json.loads(path.read_text())
        config["authorization"]["users"].append({"user": "admin", "password": "admin"})
        path.write_text(json.dumps(config))
        return f"nats://admin:admin@127.0.0.1:{self.port}"

    async def start(self) -> None:
        log = (self.state_dir / "nats-server.log").open("ab")
        with log:
            self._process = subprocess.Popen(  # noqa: ASYNC220 - it returns at once
                command(self.state_dir), stdout=log, stderr=log
            )
        await eventually(self._answers)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stop(self) -> None:
        """End it in peace: it writes down what it knows."""
        assert self._process is not None
        self._process.terminate()
        self._process.wait()

    def wipe(self) -> None:
        shutil.rmtree(self.state_dir / "nats" / "store")

    async def restart(self, *, wiped: bool = False) -> None:
        self.kill()
        if wiped:
            self.wipe()
        await self.start()

    async def restart_with(self, **jetstream: object) -> None:
        """Start it again with other settings of JetStream."""
        path = config_path(self.state_dir)
        config = json.loads(path.read_text())
        config["jetstream"] |= jetstream
        path.write_text(json.dumps(config))
        await self.restart()

    def pause(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    async def _answers(self) -> bool:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except ConnectionRefusedError:
            return False
        greeting = await reader.readline()
        writer.close()
        return greeting.startswith(b"INFO")


@pytest.fixture
def stopped_broker(tmp_path: Path):
    broker = Broker(tmp_path)
    yield broker
    broker.kill()


@pytest.fixture
async def broker(stopped_broker: Broker) -> Broker:
    await stopped_broker.start()
    return stopped_broker


@pytest.fixture
async def connect(stopped_broker: Broker) -> AsyncIterator[Connect]:
    """Return buses of the named users; they need no broker to be there."""
    buses: list[Bus] = []

    async def connect_as(user: str) -> Bus:
        bus = await Bus.connect(stopped_broker.urls[user], name=user)
        buses.append(bus)
        return bus

    yield connect_as
    await asyncio.gather(*(bus.close() for bus in buses))


@pytest.fixture
async def background() -> AsyncIterator[Callable[[Awaitable[None]], asyncio.Task[None]]]:
    """Run something until the test ends."""
    tasks: list[asyncio.Task[None]] = []

    def start(work) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        tasks.append(task)
        return task

    yield start
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def messages_in(bus: Bus, stream: str) -> int:
    """Return how many messages a stream holds."""

    async def count(js: JetStreamContext) -> int:
        return (await js.stream_info(stream)).state.messages

    return await bus.call(count)


_positions = itertools.count(1)


def an_event(position: int | None = None, **metadata: str) -> RecordedEvent:
    """Return an event of the scheduler; positions go up."""
    position = position or next(_positions)
    return RecordedEvent(
        position=position,
        event_id=f"evt_{position:026d}",
        stream="endpoint/ep_01",
        version=position,
        type="engineshed.api.scheduler.v1.EndpointCreated",
        event=EndpointCreated(endpoint_id="ep_01", name=f"endpoint {position}"),
        metadata=Metadata(**{"actor": "tok_01", "org_id": "org_01", **metadata}),
        recorded_at=datetime(2025, 1, 2, 3, 4, 5, 678, tzinfo=UTC),
    )
