"""The control side of one replica's front: asked again and again how it is."""

import asyncio
import time
from collections.abc import Callable
from typing import Final

import grpc
import structlog

from engineshed.agent.domain.load import Answer, FrontLoad
from engineshed.api.replica.v1 import replica_service_pb2 as replica_pb
from engineshed.api.replica.v1.replica_service_pb2_grpc import ReplicaServiceStub
from engineshed.rpc import open_channel
from engineshed.runtime.tls import TlsPeer

DEADLINE_SECONDS: Final = 10.0
"""For every question. `life.MISSED_POLLS` of them in a row end the front."""
QUICK_SECONDS: Final = 0.2
"""Between questions while it loads or drains, when somebody waits for it."""
CALM_SECONDS: Final = 1.0
"""Between questions otherwise."""

_CALM: Final = frozenset({replica_pb.PHASE_READY, replica_pb.PHASE_FAILED})

log = structlog.get_logger()


class Front:
    """One front, as far as it answers."""

    def __init__(
        self,
        replica_id: str,
        address: str,
        secret: str,
        changed: Callable[[], None],
        tls: TlsPeer | None = None,
    ) -> None:
        """Ask the front at `address`; `changed` is called when it says something new."""
        self.address = address
        self._replica_id = replica_id
        self._changed = changed
        self._channel = open_channel(address, secret, "agent", tls=tls)
        self._stub = ReplicaServiceStub(self._channel)
        self._answer = replica_pb.GetStatusResponse()
        self._load: FrontLoad | None = None
        self._missed = 0
        self._hurry = asyncio.Event()
        self._asking = asyncio.create_task(self._ask_for_ever())

    @property
    def state(self) -> replica_pb.ReplicaState | None:
        """What it last said of itself; None before its first answer."""
        return self._answer.state if self._answer.HasField("state") else None

    @property
    def in_flight(self) -> int | None:
        """How many requests it had when it last answered; None before its first answer."""
        return self._answer.in_flight if self._answer.HasField("state") else None

    @property
    def in_flight_seconds(self) -> float:
        """How long all its requests together have been in flight; 0 before its first answer."""
        return self._load.in_flight_seconds(time.monotonic()) if self._load else 0.0

    @property
    def idle_seconds(self) -> float | None:
        """Since when it has no request, 0 if it has some; None: it does not say, or not now."""
        return self._load.idle_seconds(time.monotonic()) if self._load else None

    @property
    def missed(self) -> int:
        """How many questions in a row it left unanswered for as long as the deadline."""
        return self._missed

    async def drain(self) -> None:
        """Ask it to take no more requests.

        Raises:
            grpc.aio.AioRpcError: it did not answer.

        """
        await self._stub.Drain(replica_pb.DrainRequest(), timeout=DEADLINE_SECONDS)
        self._hurry.set()

    async def close(self) -> None:
        """Stop asking."""
        self._asking.cancel()
        await asyncio.gather(self._asking, return_exceptions=True)
        await self._channel.close()

    async def _ask_for_ever(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            asked = loop.time()
            try:
                answer = await self._ask()
            except grpc.aio.AioRpcError as error:
                # One that is refused at once counts no sooner than one that gets no answer.
                await asyncio.sleep(asked + DEADLINE_SECONDS - loop.time())
                self._miss(f"{error.code().name}: {error.details()}")
                continue
            if answer.state.replica_id != self._replica_id:
                await asyncio.sleep(asked + DEADLINE_SECONDS - loop.time())
                self._miss(f"this is {answer.state.replica_id}")
                continue
            self._missed = 0
            known = (self.state, self.in_flight)
            self._answer = answer
            self._load = _load_after(self._load, answer)
            if known != (self.state, self.in_flight):
                self._changed()
            await self._pause(calm=answer.state.phase in _CALM)

    async def _pause(self, *, calm: bool) -> None:
        """Wait before the next question, which comes at once when somebody is in a hurry."""
        try:
            async with asyncio.timeout(CALM_SECONDS if calm else QUICK_SECONDS):
                await self._hurry.wait()
        except TimeoutError:
            pass  # nobody is
        self._hurry.clear()

    async def _ask(self) -> replica_pb.GetStatusResponse:
        return await self._stub.GetStatus(
            replica_pb.GetStatusRequest(), timeout=DEADLINE_SECONDS, wait_for_ready=True
        )

    def _miss(self, reason: str) -> None:
        self._missed += 1
        log.warning("front_silent", replica_id=self._replica_id, missed=self._missed, reason=reason)
        self._changed()


def _load_after(known: FrontLoad | None, said: replica_pb.GetStatusResponse) -> FrontLoad:
    idle = said.idle_age.ToNanoseconds() / 1e9 if said.HasField("idle_age") else None
    answer = Answer(time.monotonic(), said.in_flight_seconds, idle, busy=said.in_flight > 0)
    return known.after(answer) if known else FrontLoad(answer, answer)
