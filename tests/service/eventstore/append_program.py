"""A process that appends until it is killed; it prints each position once it is acknowledged.

Usage: append_program.py URL NAME. Each round appends to a stream of its own and, with a second
stream in the same transaction, to one that all such processes share.
"""

import asyncio
import random
import sys

import structlog
from google.protobuf.wrappers_pb2 import StringValue

from engineshed.eventstore import (
    EventStore,
    Idempotency,
    Metadata,
    StreamAppend,
    StreamConflictError,
)

_WRITERS = 4


async def main(url: str, name: str) -> None:
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    store = await EventStore.open(url, service="test")
    await asyncio.gather(*(_append_for_ever(store, f"{name}{n}") for n in range(_WRITERS)))


async def _append_for_ever(store: EventStore, name: str) -> None:
    me = Metadata(name, "org_1")
    own = len(await store.load(f"own/{name}"))
    while True:
        shared = len(await store.load("shared/1"))
        event = StringValue(value=f"{name} {own}")
        request = Idempotency("org_1", name, "append", f"{own}", b"hash", b"answer")
        try:
            recorded = await store.append(
                StreamAppend(f"own/{name}", own, [event], me),
                StreamAppend("shared/1", shared, [event], me),
                idempotency=request,
            )
        except StreamConflictError:
            # Who always reads while others write would always come too late.
            await asyncio.sleep(random.uniform(0, 0.02))
            continue
        own += 1
        sys.stdout.writelines(f"{one.position} {one.event_id}\n" for one in recorded)
        sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
