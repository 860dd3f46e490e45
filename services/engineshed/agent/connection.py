"""The agent's side of the stream to the scheduler: status out, desired states in, for ever."""

import asyncio
import random
import time
from collections.abc import AsyncIterator
from typing import Final

import grpc
import structlog

from engineshed.agent.domain.desired import StaleDesiredStateError
from engineshed.agent.reconciler import Reconciler
from engineshed.api.agent.v1.agent_service_pb2 import ConnectRequest, Hello
from engineshed.api.agent.v1.agent_service_pb2_grpc import AgentServiceStub

STATUS_SECONDS: Final = 2.0
"""Between two reports when nothing changes; each renews the node's lease."""
PAUSE_SECONDS: Final = 0.1
"""Between two reports when much changes."""
RETRY_FIRST: Final = 0.1
RETRY_LONGEST: Final = 2.0
"""Seconds between two tries to connect. Well below the lease, for a scheduler that comes back."""

log = structlog.get_logger()


class SchedulerConnection:
    """Keeps the scheduler informed and obeys it, whenever it can be reached."""

    def __init__(self, channel: grpc.aio.Channel, hello: Hello, reconciler: Reconciler) -> None:
        self._stub = AgentServiceStub(channel)
        self._hello = hello
        self._reconciler = reconciler
        self.told_at = time.monotonic()
        """When the scheduler was last sent a status; at first, since when it was not."""

    async def run(self) -> None:
        """Connect, and connect again whenever that ends, for ever."""
        pause = RETRY_FIRST
        while True:
            heard = False
            try:
                async for _ in self._session():
                    heard = True
                reason = "the scheduler ended the stream"
            except grpc.aio.AioRpcError as error:
                reason = f"{error.code().name}: {error.details()}"
            pause = RETRY_FIRST if heard else min(2 * pause, RETRY_LONGEST)
            log.warning("scheduler_lost", reason=reason, retry_seconds=round(pause, 1))
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - no secret

    async def _session(self) -> AsyncIterator[None]:
        """Obey one stream to its end; yields after every desired state."""
        call = self._stub.Connect(self._reports())
        try:
            async for response in call:
                if not response.HasField("desired"):
                    continue
                try:
                    await self._reconciler.apply(response.desired)
                except StaleDesiredStateError as error:
                    log.warning("desired_state_refused", reason=error.message, **error.facts)
                yield
        finally:
            call.cancel()

    async def _reports(self) -> AsyncIterator[ConnectRequest]:
        """Yield what the scheduler is told: who this is, then everything, again and again."""
        log.info("scheduler_greeted", node_id=self._hello.node_id)
        yield ConnectRequest(hello=self._hello)
        while True:
            yield ConnectRequest(status=self._reconciler.status())
            self.told_at = time.monotonic()  # it has gone out: the next one is asked for
            await asyncio.sleep(PAUSE_SECONDS)
            try:
                async with asyncio.timeout(STATUS_SECONDS - PAUSE_SECONDS):
                    await self._reconciler.wait_for_news()
            except TimeoutError:
                pass  # nothing new, but the lease must be renewed
