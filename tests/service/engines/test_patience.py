"""Calls in threads that may hang: given up in time, and nobody waits for them at the end."""

import asyncio
import subprocess
import sys
import threading

import pytest

from engineshed.agent.engines.patience import AbandonedError, PatientCalls, Pulse


async def test_a_call_returns_what_it_has_and_raises_what_went_wrong() -> None:
    calls = PatientCalls()
    assert await calls.call(lambda _: 7, patience=60) == 7
    with pytest.raises(ZeroDivisionError):
        await calls.call(lambda _: 1 // 0, patience=60)


async def test_a_call_that_hangs_is_given_up_and_ends_at_its_next_beat() -> None:
    awake, ended = threading.Event(), threading.Event()

    def hang(pulse: Pulse) -> None:
        awake.wait(60)
        try:
            pulse.beat(1)
        except AbandonedError:
            ended.set()
            raise

    with pytest.raises(TimeoutError):
        await PatientCalls().call(hang, patience=0.05)
    awake.set()

    assert await asyncio.to_thread(ended.wait, 60)


async def test_a_call_is_given_up_when_its_caller_is_cancelled() -> None:
    started, awake, ended = threading.Event(), threading.Event(), threading.Event()

    def work(pulse: Pulse) -> None:
        started.set()
        awake.wait(60)
        try:
            pulse.beat(1)
        except AbandonedError:
            ended.set()

    call = asyncio.create_task(PatientCalls().call(work, patience=60))
    await asyncio.to_thread(started.wait, 60)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    awake.set()

    assert await asyncio.to_thread(ended.wait, 60)


async def test_what_is_done_is_heard_while_it_goes_on() -> None:
    heard: asyncio.Queue[int] = asyncio.Queue()
    go_on = threading.Event()

    def work(pulse: Pulse) -> None:
        pulse.beat(5)
        go_on.wait(60)

    call = asyncio.create_task(PatientCalls().call(work, 60, heard.put_nowait))
    while await heard.get() != 5:
        pass
    go_on.set()
    await call


async def test_so_many_calls_hang_at_once_and_no_more_until_one_is_over() -> None:
    calls, awake = PatientCalls(), threading.Event()
    hung = 0
    try:
        with pytest.raises(TimeoutError, match="earlier calls hang"):
            while True:
                try:
                    await calls.call(lambda _: awake.wait(60), patience=0.01)
                except TimeoutError as error:
                    if "hang" in str(error):
                        raise
                    hung += 1
    finally:
        awake.set()

    assert hung == 8
    while True:  # as soon as they are over
        try:
            assert await calls.call(lambda _: 7, patience=60) == 7
            break
        except TimeoutError:
            await asyncio.sleep(0)


HANG = """
import asyncio, threading
from engineshed.agent.engines.patience import PatientCalls

async def main():
    try:
        await PatientCalls().call(lambda _: threading.Event().wait(), patience=0.05)
    except TimeoutError:
        print("given up")

asyncio.run(main())
"""


def test_a_process_ends_though_a_call_hangs() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", HANG], check=True, timeout=60, capture_output=True
    )
    assert ended.stdout == b"given up\n"
