"""Several processes on one database, and processes that are killed in the middle."""

import asyncio
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from google.protobuf.wrappers_pb2 import StringValue

from engineshed.eventstore import EventStore, RecordedEvent

OpenStore = Callable[..., Awaitable[EventStore]]
Acknowledged = dict[int, str]  # event id by position

PROGRAM = Path(__file__).with_name("append_program.py")
DEADLINE_S = 60


class Appender:
    """A running `append_program.py`, and what it said was acknowledged."""

    def __init__(self, process: Process) -> None:
        self.acknowledged: Acknowledged = {}
        self._process = process
        self._more = asyncio.Condition()
        self._reading = asyncio.create_task(self._read())

    async def has_acknowledged(self, count: int) -> None:
        async with asyncio.timeout(DEADLINE_S), self._more:
            await self._more.wait_for(lambda: len(self.acknowledged) >= count)

    async def kill(self) -> None:
        self._process.kill()
        await self._reading
        await self._process.wait()

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            if line.endswith(b"\n"):  # the last one may be cut off
                position, event_id = line.decode().split()
                async with self._more:
                    self.acknowledged[int(position)] = event_id
                    self._more.notify_all()


@asynccontextmanager
async def appending(url: str, name: str) -> AsyncIterator[Appender]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(PROGRAM), url, name, stdout=PIPE
    )
    appender = Appender(process)
    try:
        yield appender
    finally:
        if process.returncode is None:
            await appender.kill()


def assert_whole(log: Sequence[RecordedEvent]) -> None:
    """No hole, nothing twice, no step back, and both events of each transaction or none."""
    assert [event.position for event in log] == list(range(1, len(log) + 1))
    assert len({event.event_id for event in log}) == len(log)
    times = [event.recorded_at for event in log]
    assert times == sorted(times)
    versions: dict[str, int] = {}
    for event in log:
        assert isinstance(event.event, StringValue)
        assert event.version == versions.get(event.stream, 0) + 1
        versions[event.stream] = event.version
    assert 2 * versions["shared/1"] == len(log)


def assert_kept(acknowledged: Acknowledged, log: Sequence[RecordedEvent]) -> None:
    recorded = {event.position: event.event_id for event in log}
    assert acknowledged.items() <= recorded.items()


async def test_two_processes_share_a_log_without_holes(
    database_url: str, open_store: OpenStore
) -> None:
    async with appending(database_url, "a") as a, appending(database_url, "b") as b:
        await asyncio.gather(a.has_acknowledged(100), b.has_acknowledged(100))
        await asyncio.gather(a.kill(), b.kill())

    log = await (await open_store()).read(0, 100_000)
    assert_whole(log)
    assert_kept(a.acknowledged, log)
    assert_kept(b.acknowledged, log)


async def test_a_killed_writer_loses_nothing_and_stops_nobody(
    database_url: str, open_store: OpenStore
) -> None:
    acknowledged: Acknowledged = {}
    async with appending(database_url, "survivor") as survivor:
        for count in (1, 20, 75):
            async with appending(database_url, "victim") as victim:
                await victim.has_acknowledged(count)
                await victim.kill()
            acknowledged |= victim.acknowledged
            await survivor.has_acknowledged(len(survivor.acknowledged) + 20)

    log = await (await open_store()).read(0, 100_000)
    assert_whole(log)
    assert_kept(acknowledged | survivor.acknowledged, log)


async def test_processes_can_open_a_new_database_at_the_same_moment(database_url: str) -> None:
    async with (
        appending(database_url, "a") as a,
        appending(database_url, "b") as b,
        appending(database_url, "c") as c,
    ):
        await asyncio.gather(*(each.has_acknowledged(1) for each in (a, b, c)))
