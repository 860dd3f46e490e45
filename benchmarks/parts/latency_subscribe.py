"""A subscriber: `python -m benchmarks.parts.latency_subscribe NATS_URL COUNT SECONDS`.

It says "ready", and prints by position when each of COUNT events arrived, by the monotonic clock,
as JSON; or those that arrived within SECONDS.
"""

import asyncio
import json
import sys
import time
from contextlib import suppress

import nats
import uvloop
from nats.aio.msg import Msg
from nats.js.api import ConsumerConfig, DeliverPolicy

from engineshed.bus.events import position_of
from engineshed.bus.streams import EVENT_SUBJECTS, EVENTS


async def main() -> None:
    """Subscribe and print."""
    url, count, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    arrived: dict[int, float] = {}
    complete = asyncio.Event()

    async def note(message: Msg) -> None:
        now = time.monotonic()
        arrived.setdefault(position_of(message.headers or {}), now)
        if len(arrived) == count:
            complete.set()

    client = await nats.connect(url)
    await client.jetstream().subscribe(
        EVENT_SUBJECTS,
        cb=note,
        stream=EVENTS,
        ordered_consumer=True,
        config=ConsumerConfig(deliver_policy=DeliverPolicy.NEW),
        pending_msgs_limit=0,
        pending_bytes_limit=0,
    )
    print("ready", flush=True)
    with suppress(TimeoutError):  # whoever compares sees what is missing
        await asyncio.wait_for(complete.wait(), seconds)
    json.dump(arrived, sys.stdout)
    await client.close()


if __name__ == "__main__":
    uvloop.run(main())
