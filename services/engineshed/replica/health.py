"""Whether the engine still generates: a tiny request when there is no other sign of life.

A Triton that is up may have an engine that hangs. But silence is no proof: the engine may be busy
with a long prompt, or this process was stopped for a while. So time counts only while this process
runs, and one failure is not enough. An engine that counts its iterations tells more: while it has
work, that counter moves.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final

import structlog

from engineshed.replica.domain.standstill import Standstill
from engineshed.replica.engine import EngineError, Generation
from engineshed.replica.failure import ReplicaFailedError
from engineshed.replica.serving import Serving

STANDSTILL: Final = "ENGINESHED_EXECUTOR_STALL_S"
"""The variable that says how long an engine with work may do no iteration, in seconds."""
CANARY: Final = Generation(prompt=(0,), text="1", max_tokens=1)

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Patience:
    """How long the engine may be silent, in rounds, before it is taken for dead."""

    idle: int = 20
    """Without any response: then a canary is sent."""
    canary: int = 30
    """For an answer to a canary."""
    tries: int = 3
    """Canaries that must fail, one after the other."""
    busy: int = 600
    """Without any response although sequences are running."""
    standstill: int = 30
    """The same, while the engine counts its iterations and that counter does not move either."""
    round: float = 1.0
    """Seconds of a round, while this process runs."""

    @classmethod
    def of_environment(cls) -> "Patience":
        """Return the usual patience, as far as this process was not told otherwise."""
        seconds = os.environ.get(STANDSTILL)
        return cls(standstill=max(1, int(seconds))) if seconds else cls()


class EngineWatch:
    """Watches the engine while it serves."""

    def __init__(
        self,
        serving: Serving,
        iteration: Callable[[], Awaitable[float | None]] | None,
        patience: Patience | None = None,
    ) -> None:
        """Prepare.

        Args:
            serving: what goes to the engine and comes from it.
            iteration: tells how many iterations the engine has done, None if it cannot tell; None
                where a single iteration may take long.
            patience: the usual one if it is None.

        """
        self._serving = serving
        self._iteration = iteration
        self._patience = patience or Patience.of_environment()
        self._suspected = False

    def suspect(self) -> None:
        """Take note that the engine failed a request: it is tested soon."""
        self._suspected = True

    async def watch(self) -> None:
        """Watch for ever.

        Raises:
            ReplicaFailedError: the engine does not generate any more.

        """
        while True:
            await self._silence()
            self._suspected = False
            await self._test()

    async def _silence(self) -> None:
        """Return when the engine should be tested: it was idle for long, or failed a request."""
        seen, silent, still = self._serving.responses, 0, Standstill()
        while not self._suspected:
            await asyncio.sleep(self._patience.round)
            silent += 1
            if self._serving.responses != seen:
                seen, silent = self._serving.responses, 0
            still = still.after_round(waiting=silent > 0 and self._serving.running > 0)
            still = await self._unless_dead(still)
            if not self._serving.running and silent >= self._patience.idle:
                return
            if self._serving.running and silent >= self._patience.busy:
                raise ReplicaFailedError(
                    "TRITON_UNRESPONSIVE",
                    f"the engine has {self._serving.running} sequences and sent nothing for "
                    f"{silent * self._patience.round:.0f} s",
                )

    async def _unless_dead(self, still: Standstill) -> Standstill:
        """Read the engine's counter if it is time to; return what is known then."""
        patience, before = self._patience.standstill, self._serving.responses
        if self._iteration is None or not still.wants_counter(patience):
            return still
        still = still.with_counter(await self._iteration())
        if still.is_dead(patience) and self._serving.responses == before:
            raise ReplicaFailedError(
                "EXECUTOR_DEAD",
                f"the engine has {self._serving.running} sequences, and for "
                f"{patience * self._patience.round:.0f} s it has sent nothing and done no "
                "iteration, though Triton answers",
            )
        return still

    async def _test(self) -> None:
        failures: list[str] = []
        while len(failures) < self._patience.tries:
            before = self._serving.responses
            try:
                await patiently(canary(self._serving), self._patience.canary, self._patience.round)
            except (EngineError, TimeoutError) as error:
                failures.append(str(error) or "no answer")
                log.warning("canary_failed", reason=failures[-1])
            else:
                return
            if self._serving.responses != before:
                return  # it was slow to come to the canary, but it answers others
            await asyncio.sleep(self._patience.round / 2)
        raise ReplicaFailedError(
            "TRITON_UNRESPONSIVE",
            f"the engine failed {len(failures)} test requests in a row: {failures[-1]}",
        )


async def canary(serving: Serving) -> None:
    """Generate one token.

    Raises:
        EngineError: the engine fails.

    """
    answers: list[object] = []
    await serving.generate(CANARY, "canary", answers.extend)
    if not answers:
        raise EngineError("a test request got no tokens")


async def patiently(work: Coroutine[Any, Any, None], rounds: int, seconds: float = 1.0) -> None:
    """Do `work` for at most so many rounds of some seconds in which this process really runs.

    Raises:
        TimeoutError: it takes longer.

    """
    working = asyncio.create_task(work)
    try:
        for _ in range(rounds):  # however long this process was stopped, it counts as one
            await asyncio.wait({working}, timeout=seconds)
            if working.done():
                return await working
        raise TimeoutError
    finally:
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
