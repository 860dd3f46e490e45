"""For what serves in Triton's Python back end: ending with the server, however that ends.

A stub whose server was killed notices, but then often hangs on its way out, with the interpreter's
lock held and the whole model in memory. A thread of its own cannot end it then, and the kernel's
PR_SET_PDEATHSIG comes too early: the thread of the server that starts a stub ends after loading. So
a small process watches both.

Run as a program it is that process: python orphan.py SERVER_PID STUB_PID… A model of ours starts it
for itself; for one of NVIDIA's, which may have processes of its own, its front does.
"""

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

_SHARED_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - where the back end makes its regions
_REGION_PREFIX: Final = "triton_python_backend_shm_region_"


def end_with_server() -> None:
    """From now on, have this stub killed when the server, its parent, is gone."""
    command = watch_command(os.getppid(), [os.getpid()])
    subprocess.Popen(command, stdin=subprocess.DEVNULL)
    # Both sides have the region mapped: without its name it goes with the last of them.
    for region in _regions():
        region.unlink(missing_ok=True)


def watch_command(server_pid: int, pids: Iterable[int]) -> list[str]:
    """Return the command that kills the processes `pids` when the server is gone."""
    # Isolated and without site-packages: it needs nothing of them, and starts at once.
    return [sys.executable, "-I", "-S", __file__, str(server_pid), *map(str, pids)]


def watch(server_pid: int, pids: Iterable[int]) -> None:
    """Return when the processes `pids` are gone; kill them when the server is."""
    left = {handle for pid in pids if (handle := _open(pid)) is not None}
    if (server := _open(server_pid)) is not None:
        _wait(server, left)
    for handle in left:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(handle, signal.SIGKILL)


def _wait(server: int, left: set[int]) -> None:
    """Return when the server is gone, or all others; take those that are out of `left`."""
    poll = select.poll()
    for handle in (server, *left):
        poll.register(handle, select.POLLIN)
    while left:
        gone = {handle for handle, _ in poll.poll()}
        left -= gone
        if server in gone:
            return
        for handle in gone:
            poll.unregister(handle)


def _open(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return None


def _regions() -> list[Path]:
    """Return the shared memory that the server named on this stub's command line."""
    arguments = Path("/proc/self/cmdline").read_bytes().decode(errors="replace").split("\0")
    return [
        _SHARED_MEMORY / argument for argument in arguments if argument.startswith(_REGION_PREFIX)
    ]


if __name__ == "__main__":
    watch(int(sys.argv[1]), map(int, sys.argv[2:]))
