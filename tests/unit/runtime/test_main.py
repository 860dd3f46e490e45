"""The frame around a service: it ends as a whole, when it is told to or when a part of it ends."""

import asyncio
import signal
import subprocess
import sys

import pytest

from engineshed.runtime import supervise


class Loop:
    """Runs until it is cancelled, and says so."""

    def __init__(self) -> None:
        self.cancelled = False

    async def run(self) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise


async def fails() -> None:
    raise ZeroDivisionError


async def returns() -> None:
    """Return, which no loop should."""


async def test_all_loops_are_cancelled_when_the_service_stops() -> None:
    loops = [Loop(), Loop()]
    stop = asyncio.Event()
    running = asyncio.create_task(supervise(stop, {"a": loops[0].run(), "b": loops[1].run()}))
    await asyncio.sleep(0)  # it starts them

    stop.set()
    await running

    assert [loop.cancelled for loop in loops] == [True, True]


async def test_a_loop_that_fails_ends_the_others_and_its_error_is_told() -> None:
    other = Loop()

    with pytest.raises(ZeroDivisionError):
        await supervise(asyncio.Event(), {"fails": fails(), "other": other.run()})

    assert other.cancelled


async def test_a_loop_that_returns_ends_the_service_too() -> None:
    with pytest.raises(RuntimeError, match="the loop short returned"):
        await supervise(asyncio.Event(), {"short": returns(), "other": Loop().run()})


CRASHING = """
import os, resource, signal
from engineshed.runtime import run

async def main(stop):
    os.kill(os.getpid(), signal.SIGSEGV)

resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
run(main)
"""


def test_a_crash_of_the_interpreter_leaves_a_trace() -> None:
    process = subprocess.run([sys.executable, "-c", CRASHING], capture_output=True, check=False)

    assert process.returncode == -signal.SIGSEGV
    assert b"Segmentation fault" in process.stderr
    assert b"in main" in process.stderr
