"""Watching one front: what it says of itself, by its file until it listens, then by asking it."""

import asyncio
from collections.abc import Callable
from typing import Final

from engineshed.agent.domain.life import Failure
from engineshed.agent.front import Front
from engineshed.agent.replicas import ReplicaDirectory
from engineshed.api.replica.v1 import replica_service_pb2 as replica_pb
from engineshed.processes import ProcessIdentity, family
from engineshed.runtime.tls import TlsPeer

_LONGEST_STEP: Final = 2.0
"""Seconds that count at most between two looks: this process may have been stopped in between."""
_ENDING: Final = frozenset({replica_pb.PHASE_FAILED, replica_pb.PHASE_STOPPED})


class Watch:
    """What is known of one front."""

    def __init__(
        self, directory: ReplicaDirectory, wake: Callable[[], None], tls: TlsPeer | None
    ) -> None:
        """Watch the front of the replica in `directory`; `wake` is called when it says news."""
        self._tls = tls
        self._directory = directory
        self._wake = wake
        self._front: Front | None = None
        self._looked: float | None = None
        self.said: replica_pb.ReplicaState | None = None
        """What it last said of itself; None before it said anything."""
        self.silent_seconds = 0.0
        """How long it has run without listening, or has been at its end without ending."""

    @property
    def phase(self) -> replica_pb.Phase.ValueType:
        """Where it is, as it says."""
        return self.said.phase if self.said else replica_pb.PHASE_UNSPECIFIED

    @property
    def in_flight(self) -> int | None:
        """How many requests it has; None until it was asked."""
        return self._front.in_flight if self._front else None

    @property
    def in_flight_seconds(self) -> float:
        """How long all its requests together have been in flight; 0 until it was asked."""
        return self._front.in_flight_seconds if self._front else 0.0

    @property
    def idle_seconds(self) -> float | None:
        """Since when it has no request, 0 if it has some; None while that cannot be told."""
        return self._front.idle_seconds if self._front else None

    @property
    def missed_polls(self) -> int:
        """How many questions in a row it left unanswered."""
        return self._front.missed if self._front else 0

    @property
    def failure(self) -> Failure | None:
        """Why it failed, as it says."""
        if self.said is None or self.said.phase != replica_pb.PHASE_FAILED:
            return None
        return Failure(
            self.said.code or "REPLICA_FAILED",
            self.said.reason or "the front gave no reason",
            self.said.retryable,
        )

    async def look(self, now: float, *, alive: bool) -> None:
        """Bring everything up to date; `now` is in seconds, `alive` whether its process runs."""
        if alive and self._front is not None and self._front.state is not None:
            self.said = self._front.state
        elif said := await asyncio.to_thread(self._directory.front_state):
            self.said = said
            if alive and self._front is None and said.control_address:
                await self._listen_to(said.control_address)
        self._count_silence(now)

    async def drain(self) -> None:
        """Ask it to take no more requests.

        Raises:
            grpc.aio.AioRpcError: it did not answer.

        """
        if self._front is not None:
            await self._front.drain()

    async def find_triton(self, process: ProcessIdentity) -> ProcessIdentity | None:
        """Return its Triton, while its own process lives to vouch for it."""
        pid = self.said.triton_pid if self.said else 0
        relatives = await asyncio.to_thread(family, process) if pid else ()
        return next((relative for relative in relatives if relative.pid == pid), None)

    async def close(self) -> None:
        """Ask it no more."""
        if self._front is not None:
            await self._front.close()
            self._front = None

    async def _listen_to(self, address: str) -> None:
        spec = await asyncio.to_thread(self._directory.spec)
        assert spec is not None, "a front is started with a spec"
        self._front = Front(self._directory.replica_id, address, spec.secret, self._wake, self._tls)

    def _count_silence(self, now: float) -> None:
        listens = self._front is not None and self.phase not in _ENDING
        if listens or self._looked is None:
            self.silent_seconds = 0.0
        else:
            self.silent_seconds += min(now - self._looked, _LONGEST_STEP)
        self._looked = now
