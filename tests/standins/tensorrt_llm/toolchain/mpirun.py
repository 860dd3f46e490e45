"""mpirun, as far as one starts the ranks of a server with it, all on this host.

mpirun --allow-run-as-root -n 1 PROGRAM ARGUMENT... : -n 1 PROGRAM ARGUMENT...
"""

import ctypes
import os
import signal
import subprocess
import sys
import time
from types import FrameType
from typing import Final

from .logs import say

_GRACE_SECONDS: Final = 1.0
_PR_SET_PDEATHSIG: Final = 1


def main() -> None:
    """Start the ranks, and end them all when one of them ends or mpirun is told to."""
    programs = _programs(sys.argv[1:])
    ranks: list[subprocess.Popen[bytes]] = []

    def stop(number: int, _frame: FrameType | None) -> None:
        # As Open MPI does: SIGTERM for all whatever came, and soon after it SIGKILL.
        _end(ranks)
        sys.exit(128 + number)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    for number, program in enumerate(programs):
        environment = os.environ | _variables(number, len(programs))
        ranks.append(subprocess.Popen(program, env=environment, preexec_fn=_end_with_mpirun))
    pid, status = os.wait()
    ended = next(number for number, rank in enumerate(ranks) if rank.pid == pid)
    ranks[ended].returncode = code = os.waitstatus_to_exitcode(status)
    if code:
        _report(ended, code)
    _end(ranks)
    sys.exit(128 - code if code < 0 else code)


def _programs(arguments: list[str]) -> list[list[str]]:
    programs: list[list[str]] = [[]]
    for argument in arguments:
        if argument == ":":
            programs.append([])
        else:
            programs[-1].append(argument)
    return [copy for program in programs for copy in _copies(program)]


def _copies(program: list[str]) -> list[list[str]]:
    count = 1
    while program and program[0].startswith("-"):
        option = program[0]
        if option == "--allow-run-as-root":
            program = program[1:]
        elif option in ("-n", "-np"):
            count, program = int(program[1]), program[2:]
        else:
            sys.exit(f"mpirun: Error: unknown option {option!r}\nType 'mpirun --help' for usage.")
    return [program] * count


def _end_with_mpirun() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _variables(rank: int, size: int) -> dict[str, str]:
    return {
        "OMPI_COMM_WORLD_RANK": str(rank),
        "OMPI_COMM_WORLD_SIZE": str(size),
        "OMPI_COMM_WORLD_LOCAL_RANK": str(rank),
        "OMPI_COMM_WORLD_LOCAL_SIZE": str(size),
    }


def _report(rank: int, code: int) -> None:
    if code > 0:  # TensorRT-LLM aborts so where it fails
        text = (
            f"MPI_ABORT was invoked on rank {rank} in communicator MPI_COMM_WORLD\n"
            f"with errorcode {code}."
        )
    else:
        how = signal.strsignal(-code)
        text = f"mpirun noticed that process rank {rank} exited on signal {-code} ({how})."
    line = "-" * 74
    say(f"{line}\n{text}\n{line}", sys.stderr)


def _end(ranks: list[subprocess.Popen[bytes]]) -> None:
    for rank in ranks:
        rank.terminate()
    end = time.monotonic() + _GRACE_SECONDS
    for rank in ranks:
        try:
            rank.wait(max(0.0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            rank.kill()
            rank.wait()
