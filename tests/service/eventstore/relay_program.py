"""A relay to JetStream as a process of its own, which can be told when to die.

Usage: relay_program.py URL NATS_URL DIE_AFTER. With DIE_AFTER above 0 it kills itself as soon as
the broker has acknowledged so many events: after the publish, before the cursor is stored.
"""

import asyncio
import os
import signal
import sys

import nats
from google.protobuf import wrappers_pb2
from nats.js import JetStreamContext
from nats.js.errors import NotFoundError

from engineshed.eventstore import EventStore, RecordedEvent, Relay

__all__ = ["wrappers_pb2"]  # the events in the log


class JetStreamSink:
    """Publishes to the stream EVENTS, on `events.<stream>`."""

    def __init__(self, js: JetStreamContext, die_after: int) -> None:
        self._js = js
        self._left = die_after

    async def publish(self, event: RecordedEvent) -> None:
        await self._js.publish(
            f"events.{event.stream.replace('/', '.')}",
            event.event.SerializeToString(),
            timeout=2,
            headers={"Nats-Msg-Id": event.event_id, "position": str(event.position)},
        )
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    async def resume_position(self) -> int | None:
        try:
            last = await self._js.get_last_msg("EVENTS", "events.>")
        except NotFoundError:
            return 0
        return int((last.headers or {})["position"])


async def main(url: str, nats_url: str, die_after: str) -> None:
    store = await EventStore.open(url, service="test")
    connection = await nats.connect(nats_url, max_reconnect_attempts=-1, reconnect_time_wait=0.1)
    await Relay(store, JetStreamSink(connection.jetstream(), int(die_after))).run()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
