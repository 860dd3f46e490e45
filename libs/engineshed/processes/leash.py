"""Programs that die with their parent. As one: python leash.py PARENT_PID PROGRAM ARGUMENTS.

It asks the kernel for SIGKILL at the parent's death (PR_SET_PDEATHSIG, which an exec keeps) and
then becomes the program: same pid, no process in between. Done here and not in a `preexec_fn`,
which is not safe in a process with threads. It imports nothing of ours, so it starts at once.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Sequence
from typing import Final

_PR_SET_PDEATHSIG: Final = 1


def on_a_leash(argv: Sequence[str]) -> tuple[str, ...]:
    """Return the command that runs `argv` and is killed by the kernel when its parent dies.

    The parent is the process (strictly: the thread) that starts it, so start it from one that
    lasts.
    """
    return (sys.executable, "-I", "-S", __file__, str(os.getpid()), *argv)


def main() -> None:
    """Leash this process, then become the program."""
    parent, argv = int(sys.argv[1]), sys.argv[2:]
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:
        sys.exit("the parent died before the program could start")
    os.execvp(argv[0], argv)  # noqa: S606 - becoming the program, without a shell, is the point


if __name__ == "__main__":
    main()
