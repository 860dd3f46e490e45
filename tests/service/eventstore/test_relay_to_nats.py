"""Every committed event reaches a real broker, whatever is killed when."""

import asyncio
import json
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import nats
import pytest
from google.protobuf.wrappers_pb2 import Int64Value
from nats.js import JetStreamContext
from nats.js.api import StreamConfig

from engineshed.eventstore import EventStore, Metadata, RecordedEvent, StreamAppend

OpenStore = Callable[..., Awaitable[EventStore]]

PROGRAM = Path(__file__).with_name("relay_program.py")
NATS_SERVER = Path(sys.executable).with_name("nats-server")
DEADLINE_S = 60
STREAMS = 8
EVENTS = 400


@asynccontextmanager
async def running(*command: str | Path) -> AsyncIterator[Process]:
    process = await asyncio.create_subprocess_exec(*map(str, command))
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@asynccontextmanager
async def broker(folder: Path, port: str = "-1") -> AsyncIterator[str]:
    """A nats-server with its store in `folder`; -1 takes a free port."""
    options: list[str | Path] = [
        "-js",
        "-sd",
        folder,
        "-a",
        "127.0.0.1",
        "-p",
        port,
        "--ports_file_dir",
        folder,
        "-l",
        folder / "log",
    ]
    async with running(NATS_SERVER, *options) as process:
        yield await url_in(folder / f"nats-server_{process.pid}.ports")


async def url_in(ports: Path) -> str:
    """Wait for the file that the server writes when it is ready; return its address."""
    async with asyncio.timeout(DEADLINE_S):
        while not (text := await asyncio.to_thread(read_if_there, ports)):
            await asyncio.sleep(0.01)
    (url,) = json.loads(text)["nats"]
    return str(url)


def read_if_there(file: Path) -> str:
    return file.read_text() if file.exists() else ""


@pytest.fixture
async def nats_url(tmp_path: Path) -> AsyncIterator[str]:
    folder = tmp_path / "nats"
    folder.mkdir()
    async with broker(folder) as url:
        yield url


@pytest.fixture
async def js(nats_url: str) -> AsyncIterator[JetStreamContext]:
    connection = await nats.connect(nats_url)
    js = connection.jetstream()
    # So short a window that repeated events are really stored twice, as after a long outage.
    await js.add_stream(StreamConfig("EVENTS", subjects=["events.>"], duplicate_window=0.1))
    yield js
    await connection.close()


async def write(store: EventStore, stream: str) -> None:
    for version in range(EVENTS // STREAMS):
        event = Int64Value(value=version + 1)
        await store.append(StreamAppend(stream, version, [event], Metadata("tok_1", "org_1")))


async def messages(js: JetStreamContext) -> list[tuple[str, str]]:
    """Return subject and event id of all that the broker holds, in order."""
    count = (await js.stream_info("EVENTS")).state.messages
    subscription = await js.subscribe("events.>", ordered_consumer=True)
    received = [await subscription.next_msg(timeout=10) for _ in range(count)]
    return [(message.subject, (message.headers or {})["Nats-Msg-Id"]) for message in received]


async def everything_is_published(js: JetStreamContext, log: list[RecordedEvent]) -> None:
    """Wait until the broker's last event is the log's last."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            if (await js.stream_info("EVENTS")).state.messages >= len(log):
                held = {event_id for _, event_id in await messages(js)}
                if held >= {event.event_id for event in log}:
                    return
            await asyncio.sleep(0.05)


def assert_in_order(published: list[tuple[str, str]], log: list[RecordedEvent]) -> None:
    """Hold the first delivery of each event against the log: all are there, streams in order."""
    first = dict.fromkeys(event_id for _, event_id in published)
    assert first.keys() == {event.event_id for event in log}
    versions = {event.event_id: (event.stream, event.version) for event in log}
    latest: dict[str, int] = {}
    for event_id in first:
        stream, version = versions[event_id]
        assert version == latest.get(stream, 0) + 1
        latest[stream] = version


async def test_a_relay_killed_after_publishing_skips_nothing(
    database_url: str, store: EventStore, nats_url: str, js: JetStreamContext
) -> None:
    async with asyncio.TaskGroup() as writers:
        for number in range(STREAMS):
            writers.create_task(write(store, f"a/{number}"))
        for die_after in (1, 2, 70, 150):
            async with (
                running(sys.executable, PROGRAM, database_url, nats_url, str(die_after)) as relay,
                asyncio.timeout(DEADLINE_S),
            ):
                assert await relay.wait() == -9

    log = await store.read(0, EVENTS)
    async with running(sys.executable, PROGRAM, database_url, nats_url, "0"):
        await everything_is_published(js, log)
    published = await messages(js)
    assert_in_order(published, log)
    assert len(published) > len(log)  # what was not known to be published came once more


async def test_a_relay_outlives_its_broker(
    database_url: str, store: EventStore, tmp_path: Path
) -> None:
    folder = tmp_path / "broker"
    folder.mkdir()
    async with AsyncExitStack() as stack:
        async with broker(folder) as url:
            connection = await nats.connect(url, reconnect_time_wait=0.1, max_reconnect_attempts=-1)
            stack.push_async_callback(connection.close)
            js = connection.jetstream()
            await js.add_stream(StreamConfig("EVENTS", subjects=["events.>"]))
            relay = running(sys.executable, PROGRAM, database_url, url, "0")
            await stack.enter_async_context(relay)
            await write(store, "a/1")
        await write(store, "a/2")  # while there is no broker

        async with broker(folder, port=url.rpartition(":")[2]):
            await write(store, "a/3")
            log = await store.read(0, EVENTS)
            await everything_is_published(js, log)
            assert_in_order(await messages(js), log)


async def test_a_relay_restores_what_its_broker_lost(
    database_url: str, store: EventStore, nats_url: str, js: JetStreamContext
) -> None:
    await write(store, "a/1")
    await write(store, "a/2")
    log = await store.read(0, EVENTS)
    async with running(sys.executable, PROGRAM, database_url, nats_url, "0"):
        await everything_is_published(js, log)

    await js.purge_stream("EVENTS")

    async with running(sys.executable, PROGRAM, database_url, nats_url, "0"):
        await everything_is_published(js, log)
    assert_in_order(await messages(js), log)
