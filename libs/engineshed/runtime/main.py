"""The frame around a service's main: the event loop, signals, and loops that must not die."""

import asyncio
import faulthandler
import signal
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, TypeVar

import structlog
import uvloop

T = TypeVar("T")

log: Final[structlog.stdlib.BoundLogger] = structlog.get_logger()


def run(main: Callable[[asyncio.Event], Awaitable[None]]) -> None:
    """Run `main` until it returns; SIGTERM and SIGINT set its event, and it then winds up.

    A crash in native code leaves its traceback on standard error, where the logs go.
    """
    faulthandler.enable()
    uvloop.run(_run(main))


async def _run(main: Callable[[asyncio.Event], Awaitable[None]]) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await main(stop)


async def unless(stop: asyncio.Event, work: Coroutine[Any, Any, T]) -> T | None:
    """Return what `work` returns; None, and it is cancelled, when `stop` is set before."""
    working, stopped = asyncio.create_task(work), asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({working, stopped}, return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        working.cancel()
        stopped.cancel()
        await asyncio.gather(working, stopped, return_exceptions=True)


async def supervise(stop: asyncio.Event, loops: dict[str, Coroutine[Any, Any, None]]) -> None:
    """Run `loops` beside each other until `stop` is set, then cancel them.

    A loop that ends before that is a bug or a fault it cannot mend: the others are cancelled and
    its error is raised, so that the process ends and is started again rather than limping on.
    """
    tasks = {asyncio.create_task(loop, name=name) for name, loop in loops.items()}
    stopped = asyncio.create_task(stop.wait(), name="stop")
    try:
        await asyncio.wait({*tasks, stopped}, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            if task.done() and not stop.is_set():
                log.error("a loop ended", loop=task.get_name())
                task.result()
                raise RuntimeError(f"the loop {task.get_name()} returned")
    finally:
        stopped.cancel()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
