"""Identities of processes and their end, tried on real processes."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from engineshed import processes
from engineshed.processes import ProcessGoneError, ProcessIdentity

Start = Callable[[str], subprocess.Popen[bytes]]

DEAF = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
SAY_UP_AND_WAIT = "print('up', flush=True)\nimport time; time.sleep(60)\n"
CHILD_IN_A_SESSION_OF_ITS_OWN = (
    "import subprocess, sys\n"
    "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'],"
    " start_new_session=True)\n"
    "print(child.pid, flush=True)\n"
)


@pytest.fixture
def start() -> Iterator[Start]:
    """Start Python programs, each in a session of its own, and wait for their first line."""
    started = []

    def start_one(program: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-c", program], stdout=subprocess.PIPE, start_new_session=True
        )
        started.append(process)
        return process

    yield start_one
    for process in started:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def first_line(process: subprocess.Popen[bytes]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().decode().strip()


def test_a_process_is_alive_until_it_ends(start: Start) -> None:
    process = start(SAY_UP_AND_WAIT)
    identity = processes.identify(process.pid)

    assert processes.is_alive(identity)
    process.kill()
    process.wait()
    assert not processes.is_alive(identity)


def test_a_zombie_is_not_alive(start: Start) -> None:
    process = start("")
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # ended, and not reaped

    with pytest.raises(ProcessGoneError):
        processes.identify(process.pid)


async def test_a_process_is_alive_until_its_last_thread_has_ended(start: Start) -> None:
    process = start(
        "import ctypes, threading, time\n"
        "def go_on():\n"
        "    print('up', flush=True)\n"
        "    time.sleep(60)\n"
        "threading.Thread(target=go_on).start()\n"
        "ctypes.CDLL(None).pthread_exit(None)\n"  # the first, by which the kernel lists it
    )
    first_line(process)
    identity = processes.identify(process.pid)
    async with asyncio.timeout(30):
        while psutil.Process(process.pid).status() != psutil.STATUS_ZOMBIE:
            await asyncio.sleep(0.01)

    assert process.poll() is None
    assert processes.is_alive(identity)
    assert identity in processes.family(identity)

    process.kill()
    assert await processes.wait_until_gone([identity], seconds=30)
    assert process.poll() == -signal.SIGKILL


@pytest.mark.parametrize("changed", [{"start_ticks": 1}, {"boot_id": "another"}])
async def test_who_only_has_the_same_pid_is_neither_alive_nor_signalled(
    start: Start, changed: dict[str, object]
) -> None:
    process = start(SAY_UP_AND_WAIT)
    other = replace(processes.identify(process.pid), **changed)  # type: ignore[arg-type]  # test data

    assert not processes.is_alive(other)
    assert not processes.send_signal(other, signal.SIGKILL)
    assert processes.family(other) == frozenset()
    await processes.terminate(other, grace_seconds=0)
    assert process.poll() is None


def test_a_program_name_with_parentheses_and_spaces_is_read_right(tmp_path: Path) -> None:
    program = tmp_path / "a) R 1 (b"
    program.symlink_to("/bin/sleep")
    process = subprocess.Popen([program, "60"])
    try:
        assert processes.is_alive(processes.identify(process.pid))
    finally:
        process.kill()
        process.wait()


def test_a_process_is_found_by_adjacent_arguments(start: Start, tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", SAY_UP_AND_WAIT, "--directory", tmp_path])
    try:
        found = processes.find_by_argument("--directory", str(tmp_path))
        assert [identity.pid for identity in found] == [process.pid]
        assert not processes.find_by_argument("--directory", str(tmp_path)[:-1])
    finally:
        process.kill()
        process.wait()


async def test_terminating_lets_a_process_end_by_itself(start: Start) -> None:
    process = start(
        "import signal, sys\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))\n" + SAY_UP_AND_WAIT
    )
    first_line(process)

    await processes.terminate(processes.identify(process.pid), grace_seconds=30)

    assert process.wait() == 7


async def test_a_process_is_asked_by_another_signal_where_that_is_its_word_for_it(
    start: Start,
) -> None:
    process = start(
        "import signal, sys\n"
        "signal.signal(signal.SIGINT, lambda *_: sys.exit(7))\n" + DEAF + SAY_UP_AND_WAIT
    )
    first_line(process)

    identity = processes.identify(process.pid)
    await processes.terminate(identity, grace_seconds=30, ask=signal.SIGINT)

    assert process.wait() == 7


async def test_who_does_not_listen_is_killed(start: Start) -> None:
    process = start(DEAF + SAY_UP_AND_WAIT)
    first_line(process)

    await processes.terminate(processes.identify(process.pid), grace_seconds=0.1)

    assert process.wait() == -signal.SIGKILL


async def test_a_stopped_process_is_ended(start: Start) -> None:
    process = start(DEAF + SAY_UP_AND_WAIT)
    first_line(process)
    process.send_signal(signal.SIGSTOP)

    await processes.terminate(processes.identify(process.pid), grace_seconds=0.1)

    assert process.wait() == -signal.SIGKILL


async def test_children_end_too_even_in_sessions_of_their_own(start: Start) -> None:
    process = start(CHILD_IN_A_SESSION_OF_ITS_OWN + "import time; time.sleep(60)")
    child = processes.identify(int(first_line(process)))

    await processes.terminate(processes.identify(process.pid), grace_seconds=30)

    assert not processes.is_alive(child)


async def test_children_in_the_session_of_one_that_has_ended_are_killed(start: Start) -> None:
    process = start(CHILD_IN_A_SESSION_OF_ITS_OWN.replace(", start_new_session=True", ""))
    identity = identity_of_unreaped(process)
    child = processes.identify(int(first_line(process)))
    process.wait()
    assert processes.family(identity) == {child}

    await processes.kill_family(identity)

    assert not processes.is_alive(child)


async def test_waiting_gives_up_at_the_deadline(start: Start) -> None:
    identity = processes.identify(start(SAY_UP_AND_WAIT).pid)

    assert not await processes.wait_until_gone([identity], seconds=0.01)


async def test_many_ask_at_once_for_the_same_end(start: Start) -> None:
    identity = processes.identify(start(SAY_UP_AND_WAIT).pid)

    await asyncio.gather(*(processes.terminate(identity, grace_seconds=30) for _ in range(5)))

    assert not processes.is_alive(identity)


def identity_of_unreaped(process: subprocess.Popen[bytes]) -> ProcessIdentity:
    """Return the identity of a child that may have ended already."""
    stat = Path(f"/proc/{process.pid}/stat").read_text()
    ticks = int(stat[stat.rindex(")") + 2 :].split()[19])
    return ProcessIdentity(process.pid, ticks, processes.boot_id())
