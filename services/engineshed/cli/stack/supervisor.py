"""Keeps a stack's processes running until it is told to stop, then leaves none behind."""

import asyncio
import signal
import time
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from engineshed import processes
from engineshed.cli.stack.layout import Layout
from engineshed.cli.stack.programs import Program
from engineshed.cli.stack.rotation import set_aside

BACKOFF_FIRST: Final = 0.5
BACKOFF_LAST: Final = 10.0
# A process that ran so long was healthy: its next restart is quick again.
HEALTHY_SECONDS: Final = 30.0
# Together below the fifteen seconds in which a stack must be gone.
GRACE_SECONDS: Final = 2.5
REPLICA_GRACE_SECONDS: Final = 5.0
LOG_BYTES: Final = 50 * 1024 * 1024  # of each service, twice: now, and before
LOG_LOOK_SECONDS: Final = 30.0

# Who ends before whom: those who take requests first, the broker last.
_STOP_ORDER: Final = (("gateway", "agent"), ("scheduler", "catalog"), ("nats",))


class Supervisor:
    """Starts the programs, restarts what ends, and stops all of it."""

    def __init__(
        self, layout: Layout, programs: Sequence[Program], tell: Callable[[str], None]
    ) -> None:
        """Use `tell` to say what a person should know."""
        self._layout = layout
        self._programs = programs
        self._tell = tell
        self._running: dict[str, Process] = {}
        self._stopping = False

    async def run(self, stop: asyncio.Event) -> None:
        """Keep everything running until `stop` is set; return when nothing is left."""
        keepers = [asyncio.create_task(self._keep(item)) for item in self._programs]
        keepers.append(asyncio.create_task(self._keep_logs_short()))
        try:
            await stop.wait()
        finally:
            self._stopping = True
            for keeper in keepers:
                keeper.cancel()
            await asyncio.gather(*keepers, return_exceptions=True)
            await self._stop_all()

    async def _keep(self, program: Program) -> None:
        backoff = BACKOFF_FIRST
        while not self._stopping:
            started = time.monotonic()
            try:
                process = await self._start(program)
                why = f"ended ({_describe(await process.wait())})"
            except OSError as error:  # no memory, no file handles, a full disk: that passes
                why = f"cannot be started ({error})"
            if time.monotonic() - started > HEALTHY_SECONDS:
                backoff = BACKOFF_FIRST
            log = self._layout.logs / f"{program.name}.log"
            self._tell(f"{program.name} {why}; starting it again in {backoff:g} s. Its log: {log}")
            await asyncio.sleep(backoff)
            backoff = min(2 * backoff, BACKOFF_LAST)

    async def _start(self, program: Program) -> Process:
        log = _log_file(self._layout.logs / f"{program.name}.log")
        with log.open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                *processes.on_a_leash(program.command),  # nothing outlives a killed supervisor
                stdin=DEVNULL,
                stdout=output,
                stderr=output,
                env=dict(program.environment),
                cwd=self._layout.root,
                start_new_session=True,  # Ctrl-C is for us; we tell them in our order
            )
        self._running[program.name] = process
        return process

    async def _keep_logs_short(self) -> None:
        while True:
            await asyncio.sleep(LOG_LOOK_SECONDS)
            for program in self._programs:
                await asyncio.to_thread(_shorten, self._layout.logs / f"{program.name}.log")

    async def _stop_all(self) -> None:
        first, *rest = _STOP_ORDER
        await self._stop(first)
        await self._stop_replicas()
        for names in rest:
            await self._stop(names)

    async def _stop(self, names: Sequence[str]) -> None:
        ending = [self._running[name] for name in names if name in self._running]
        await asyncio.gather(*(_end(process) for process in ending))

    async def _stop_replicas(self) -> None:
        """End what outlives its agent on purpose."""
        folders = self._layout.replicas.iterdir() if self._layout.replicas.is_dir() else ()
        found = {
            identity
            for folder in folders
            for identity in processes.find_by_argument("--directory", str(folder))
        }
        await asyncio.gather(
            *(processes.terminate(item, REPLICA_GRACE_SECONDS, ask=signal.SIGINT) for item in found)
        )


async def _end(process: Process) -> None:
    if process.returncode is not None:
        return
    process.terminate()
    try:
        await asyncio.wait_for(process.wait(), GRACE_SECONDS)
    except TimeoutError:
        process.kill()  # stopped or stuck
        await process.wait()


def _log_file(path: Path) -> Path:
    """Return `path`, with what was there set aside once it has grown large."""
    if path.exists() and path.stat().st_size > LOG_BYTES:
        path.replace(path.with_suffix(".log.1"))
    return path


def _shorten(path: Path) -> None:
    """Set aside what is in a log that has grown large; a pipe would lose it with us."""
    with suppress(OSError):  # not there yet, or no room for a copy: the next look comes
        if path.stat().st_size > LOG_BYTES:
            set_aside(path, path.with_suffix(".log.1"))


def _describe(status: int) -> str:
    return f"killed by {signal.Signals(-status).name}" if status < 0 else f"status {status}"
