"""`shed demo` when it is stopped in the middle."""

import asyncio
import gc
import threading
from contextlib import asynccontextmanager

import pytest
from rich.console import Console

from engineshed.cli import demo
from engineshed.cli.client import ApiError
from engineshed.cli.stack.options import StackError, StackOptions


async def test_a_demo_that_is_stopped_says_so_and_nothing_else(tmp_path, monkeypatch) -> None:
    stop, walking, gone = asyncio.Event(), threading.Event(), threading.Event()
    loop = asyncio.get_running_loop()
    complaints: list[object] = []
    loop.set_exception_handler(lambda _, context: complaints.append(context))

    def walk(*_: object) -> None:
        walking.set()
        loop.call_soon_threadsafe(stop.set)
        gone.wait(timeout=30)
        raise ApiError("cannot reach it")

    @asynccontextmanager
    async def running_stack(*_: object):
        try:
            yield None
        finally:
            assert walking.is_set()
            gone.set()
            await loop.shutdown_default_executor()  # the walk has ended

    monkeypatch.setattr(demo, "_walk", walk)
    monkeypatch.setattr(demo, "running_stack", running_stack)
    monkeypatch.setattr(demo, "stop_signal", lambda: stop)

    with pytest.raises(StackError, match="before the end"):
        await demo.demo(tmp_path, StackOptions("127.0.0.1", 1, "local", 1, ""), Console(quiet=True))

    await asyncio.sleep(0)
    gc.collect()
    assert complaints == []
