import asyncio
import itertools
import time
from collections.abc import Iterator
from typing import Any

import pytest

from engineshed.replica.engine import Arrived, EngineError
from engineshed.replica.failure import ReplicaFailedError
from engineshed.replica.health import EngineWatch, Patience, patiently

PATIENCE = Patience(idle=2, canary=3, tries=3, busy=9, standstill=4, round=0.01)


class Engine:
    """What the watch sees of the serving: signs of life, and a way to ask for one."""

    def __init__(self, *answers: str) -> None:
        self.running = 0
        self.responses = 0
        self.canaries = 0
        self.iterations: Iterator[float | None] = itertools.repeat(None)
        self._answers = list(answers)

    async def generate(self, generation: Any, request_id: str, arrived: Arrived) -> None:
        self.canaries += 1
        answer = self._answers.pop(0) if self._answers else "token"
        if answer == "error":
            raise EngineError("it is broken")
        if answer == "silence":
            await asyncio.Event().wait()
        if answer == "another":
            self.responses += 1
            await asyncio.Event().wait()
        self.responses += 1
        arrived([1])


async def watched(engine: Any, *, suspect: bool = False) -> None:

    async def iteration() -> float | None:
        counter: float | None = next(engine.iterations)
        return counter

    watch = EngineWatch(engine, iteration, PATIENCE)
    if suspect:
        watch.suspect()
    async with asyncio.timeout(30):
        await watch.watch()


async def until_canaries(engine: Engine, count: int) -> None:
    watching = asyncio.create_task(watched(engine))
    async with asyncio.timeout(30):
        while engine.canaries < count and not watching.done():
            await asyncio.sleep(0.001)
    assert not watching.done()
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)


async def test_an_idle_engine_that_answers_is_asked_again_and_again() -> None:
    await until_canaries(Engine(), 4)


@pytest.mark.parametrize("answers", [["silence"] * 3, ["error", "silence", "error"]])
async def test_an_engine_that_fails_some_tests_in_a_row_is_dead(answers: list[str]) -> None:
    engine = Engine(*answers)

    with pytest.raises(ReplicaFailedError) as caught:
        await watched(engine)

    assert caught.value.code == "TRITON_UNRESPONSIVE"
    assert caught.value.retryable
    assert engine.canaries == 3


async def test_one_failed_test_is_not_enough() -> None:
    await until_canaries(Engine("silence", "error", "token", "error", "silence"), 7)


async def test_an_engine_that_answers_others_is_alive_however_slow_it_is() -> None:
    await until_canaries(Engine(*["another"] * 5), 5)


async def test_an_engine_that_failed_a_request_is_tested_at_once() -> None:
    engine = Engine("error", "error", "error")
    engine.running = 1

    with pytest.raises(ReplicaFailedError):
        await watched(engine, suspect=True)


async def test_a_busy_engine_has_more_time_and_is_not_asked() -> None:
    engine = Engine()
    engine.running = 2

    with pytest.raises(ReplicaFailedError, match="2 sequences"):
        await watched(engine)

    assert engine.canaries == 0


async def test_an_engine_with_work_whose_counter_stands_is_dead_long_before() -> None:
    engine = Engine()
    engine.running, engine.iterations = 2, itertools.repeat(7.0)

    with pytest.raises(ReplicaFailedError, match="2 sequences") as caught:
        await watched(engine)

    assert (caught.value.code, caught.value.retryable) == ("EXECUTOR_DEAD", True)


async def test_an_engine_whose_counter_moves_has_all_the_time_of_a_busy_one() -> None:
    engine = Engine()
    engine.running, engine.iterations = 2, iter(map(float, itertools.count()))

    with pytest.raises(ReplicaFailedError) as caught:
        await watched(engine)

    assert caught.value.code == "TRITON_UNRESPONSIVE"


async def test_time_in_which_this_process_was_stopped_does_not_count() -> None:
    done = asyncio.Event()

    async def work() -> None:
        time.sleep(0.2)  # as if stopped  # noqa: ASYNC251
        await asyncio.sleep(0.01)
        done.set()

    await patiently(work(), rounds=3, seconds=0.05)

    assert done.is_set()
