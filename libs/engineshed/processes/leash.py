"""Programs that die with their parent. As one: python leash.py PARENT_PID PROGRAM ARGUMENTS.

Zero for the parent's pid is whoever starts it, when that is not known beforehand.

It asks the kernel for SIGKILL at the parent's death (PR_SET_PDEATHSIG, which an exec keeps) and
then becomes the program: same pid, no process in between. With --deaf before the pid it blocks
SIGTERM, which an exec keeps, too. Done here and not in a `preexec_fn`, which is not safe in a
process with threads. It imports nothing of ours, so it starts at once.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Sequence
from typing import Final

_PR_SET_PDEATHSIG: Final = 1
_DEAF: Final = "--deaf"
_WHOEVER: Final = 0


def on_a_leash(
    argv: Sequence[str], *, deaf: bool = False, started_by_us: bool = True
) -> tuple[str, ...]:
    """Return the command that runs `argv` and is killed by the kernel when its parent dies.

    The parent is the process (strictly: the thread) that starts it, so start it from one that
    lasts.

    Args:
        argv: the program and its arguments.
        deaf: whether SIGTERM never reaches it and what it starts, whatever they do about it.
        started_by_us: whether this process is the parent; else it is whoever runs the command.

    """
    options = (_DEAF,) if deaf else ()
    parent = os.getpid() if started_by_us else _WHOEVER
    return (sys.executable, "-I", "-S", __file__, *options, str(parent), *argv)


def main() -> None:
    """Leash this process, then become the program."""
    arguments = sys.argv[1:]
    if arguments[0] == _DEAF:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        del arguments[0]
    parent, argv = int(arguments[0]) or os.getppid(), arguments[1:]
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:
        sys.exit("the parent died before the program could start")
    os.execvp(argv[0], argv)  # noqa: S606 - becoming the program, without a shell, is the point


if __name__ == "__main__":
    main()
