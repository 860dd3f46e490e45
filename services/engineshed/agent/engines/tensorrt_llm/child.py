"""One step of a build: a program in a session of its own, watched, and ended with all it began."""

import asyncio
import os
import shlex
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from engineshed.agent.engines import shelf
from engineshed.agent.engines.interface import EngineBuildError
from engineshed.agent.engines.tensorrt_llm.host import computed_seconds, oom_kills
from engineshed.agent.engines.tensorrt_llm.watch import Sample, Watch
from engineshed.processes import (
    ProcessGoneError,
    ProcessIdentity,
    family,
    identify,
    kill_family,
    on_a_leash,
)
from engineshed.triton.failures import Diagnosis, diagnose, diagnosis_of
from engineshed.triton.signatures import Phase

_LOOK_SECONDS: Final = 1.0
_LOG_BYTES: Final = 2 << 20
"""How much of both ends of a section of the log is read for what went wrong."""


@dataclass(frozen=True, slots=True)
class Step:
    """A program to run."""

    name: str
    """What it does, for the log."""
    phase: Phase
    argv: Sequence[str]
    env: Mapping[str, str]
    folder: Path
    """Where it runs."""
    output: Path
    """The folder that it writes into."""


async def run_step(
    step: Step, log: Path, stall_seconds: float, look: Callable[[int], None]
) -> None:
    """Run a program to its end. However this ends, nothing of what it started is left running.

    Args:
        step: what to run.
        log: what it says is appended to this file, below a line with the command.
        stall_seconds: how long it may do nothing.
        look: called each second, in a thread, with the bytes that are in its output.

    Raises:
        EngineBuildError: it failed, or stood still.

    """
    kills = oom_kills()
    start = await asyncio.to_thread(_write_header, log, step)
    with log.open("ab") as log_file:
        process = await asyncio.create_subprocess_exec(
            *on_a_leash(step.argv),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log_file,
            stderr=log_file,
            env=step.env,
            cwd=step.folder,
            start_new_session=True,
        )
    relatives: set[ProcessIdentity] = set()  # some of them may cut their tie to it
    try:
        identity = identify(process.pid)
    except ProcessGoneError:
        identity = None  # it has ended already; its group may have not
    try:
        stalled = await _watch(process, identity, step, log, stall_seconds, look, relatives)
    finally:
        if identity is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        else:
            await kill_family(identity, also=frozenset(relatives))
        await process.wait()
    section = await asyncio.to_thread(read_section, log, start)
    if stalled:
        raise failed(diagnosis_of("BUILD_STALLED", section, stalled))
    if process.returncode != 0:
        counted = oom_kills() - kills
        raise failed(
            diagnose(section, phase=step.phase, status=process.returncode, oom_kills=counted)
        )


def failed(diagnosis: Diagnosis) -> EngineBuildError:
    """Return the error that a diagnosis is told as."""
    return EngineBuildError(
        diagnosis.code,
        diagnosis.message,
        retryable=diagnosis.retryable,
        evidence=diagnosis.evidence,
    )


def read_section(log: Path, start: int) -> str:
    """Return the log from `start` on, without the middle of a very long one."""
    with log.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(start)
        if size - start <= 2 * _LOG_BYTES:
            return file.read().decode("utf-8", "replace")
        head = file.read(_LOG_BYTES)
        file.seek(size - _LOG_BYTES)
        return b"\n".join((head, file.read())).decode("utf-8", "replace")


async def _watch(
    process: asyncio.subprocess.Process,
    identity: ProcessIdentity | None,
    step: Step,
    log: Path,
    stall_seconds: float,
    look: Callable[[int], None],
    relatives: set[ProcessIdentity],
) -> str:
    """Wait for the end; return why there was no point in waiting any longer, "" if it came.

    All that is seen of what it started is added to `relatives`.
    """

    def sample() -> Sample:
        if identity is not None:
            relatives.update(family(identity))
        written = shelf.size(step.output)
        look(written)
        computed = computed_seconds(relatives)
        return Sample(loop.time(), log.stat().st_size, written, computed)

    loop = asyncio.get_running_loop()
    pause = min(_LOOK_SECONDS, stall_seconds / 10)
    watch = Watch(await asyncio.to_thread(sample), stall_seconds)
    while True:
        with suppress(TimeoutError):
            async with asyncio.timeout(pause):
                await process.wait()
                return ""
        if stalled := watch.see(await asyncio.to_thread(sample)):
            return stalled


def _write_header(log: Path, step: Step) -> int:
    """Write what is run, so that somebody can repeat it; return where the section begins."""
    gpus = step.env.get("CUDA_VISIBLE_DEVICES", "")
    with log.open("ab") as file:
        start = file.seek(0, 2)
        command = f"CUDA_VISIBLE_DEVICES={shlex.quote(gpus)} {shlex.join(step.argv)}"
        file.write(f"\n--- {step.name}: {command}\n".encode())
    return start
