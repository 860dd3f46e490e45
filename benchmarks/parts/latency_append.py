"""A service's event store, its relay and its bus, and somebody who appends so many events a second.

`python -m benchmarks.parts.latency_append DATABASE_URL NATS_URL RATE SECONDS [bare]` prints one
JSON object, and ends when its standard input does: by position, when the append of the event began
and when it was acknowledged, by the monotonic clock. With `bare` there is neither store nor relay:
nats-py publishes messages of the same size, and what is noted is when publishing began, twice.
"""

import asyncio
import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Coroutine
from typing import Final

import nats
import structlog
import uvloop
from benchmarks.parts.sample_event import replica_ready

from engineshed import ids
from engineshed.bus import Bus, EventPublisher, ensure_streams, subject_of
from engineshed.bus.events import headers
from engineshed.bus.streams import EVENTS
from engineshed.eventstore import EventStore, Metadata, RecordedEvent, Relay, StreamAppend
from engineshed.runtime import utc_now

SERVICE: Final = "scheduler"

_STREAMS: Final = 250  # endpoints that change in turn
_METADATA: Final = Metadata("tok_1", "org_1", request_id="req_1")

_tasks: list[asyncio.Task[None]] = []  # kept from being collected

Times = dict[int, tuple[float, float]]


async def main() -> None:
    """Append and print."""
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    database_url, nats_url, rate, seconds = sys.argv[1:5]
    count = round(float(rate) * float(seconds))
    if "bare" in sys.argv:
        times = await _publish_bare(nats_url, float(rate), count)
    else:
        times = await _append(nats_url, database_url, float(rate), count)
    print(json.dumps(times), flush=True)
    await asyncio.to_thread(sys.stdin.read)  # the relay goes on meanwhile


async def _append(nats_url: str, database_url: str, rate: float, count: int) -> Times:
    bus = await Bus.connect(nats_url, name=SERVICE)
    await bus.wait_connected()
    await ensure_streams(bus)
    store = await EventStore.open(database_url, service=SERVICE)
    relay = Relay(store, EventPublisher(bus, SERVICE))
    _tasks.append(asyncio.create_task(relay.run()))
    times: Times = {}
    versions: defaultdict[str, int] = defaultdict(int)
    locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def append(number: int) -> None:
        stream = f"endpoint/ep_{number % _STREAMS}"
        async with locks[stream]:
            began = time.monotonic()
            (event,) = await store.append(
                StreamAppend(stream, versions[stream], [replica_ready(number)], _METADATA)
            )
            times[event.position] = (began, time.monotonic())
            versions[stream] += 1

    await _paced(append, rate, count)
    return times


async def _publish_bare(nats_url: str, rate: float, count: int) -> Times:
    client = await nats.connect(nats_url, inbox_prefix=f"_INBOX_{SERVICE}")
    js = client.jetstream()
    times: Times = {}

    async def publish(number: int) -> None:
        message = replica_ready(number)
        recorded = RecordedEvent(
            number + 1,
            ids.new(ids.EVENT),
            f"endpoint/ep_{number % _STREAMS}",
            1,
            message.DESCRIPTOR.full_name,
            message,
            _METADATA,
            utc_now(),
        )
        subject = subject_of(
            SERVICE, org="org_1", aggregate="endpoint", object_id=f"ep_{number}", kind="Bare"
        )
        data, about = message.SerializeToString(), headers(SERVICE, recorded)
        began = time.monotonic()
        times[number + 1] = (began, began)
        await js.publish(subject, data, stream=EVENTS, headers=about)

    await _paced(publish, rate, count)
    return times


async def _paced(
    work: Callable[[int], Coroutine[None, None, None]], rate: float, count: int
) -> None:
    """Begin `work` so often a second, however long each takes; return when all is done."""
    began = time.monotonic()
    async with asyncio.TaskGroup() as group:
        for number in range(count):
            await asyncio.sleep(max(0.0, began + number / rate - time.monotonic()))
            group.create_task(work(number))


if __name__ == "__main__":
    uvloop.run(main())
