"""For models in Triton's Python back end: ending with the server, however it ends.

A stub whose server was killed notices, but then often hangs on its way out, with the interpreter's
lock held and the whole model in memory. A thread of its own cannot end it then, and the kernel's
PR_SET_PDEATHSIG comes too early: the thread of the server that starts a stub ends after loading. So
a small process watches both.

Run as a program it is that process: python orphan.py SERVER_PID STUB_PID.
"""

import os
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import Final

_SHARED_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - where the back end makes its regions
_REGION_PREFIX: Final = "triton_python_backend_shm_region_"


def end_with_server() -> None:
    """From now on, have this stub killed when the server, its parent, is gone."""
    arguments = [str(Path(__file__)), str(os.getppid()), str(os.getpid())]
    # Isolated and without site-packages: it needs nothing of them, and starts at once.
    subprocess.Popen([sys.executable, "-I", "-S", *arguments], stdin=subprocess.DEVNULL)
    # Both sides have the region mapped: without its name it goes with the last of them.
    for region in _regions():
        region.unlink(missing_ok=True)


def watch(server_pid: int, stub_pid: int) -> None:
    """Return when the stub is gone; kill it when the server is."""
    stub = os.pidfd_open(stub_pid)
    poll = select.poll()
    poll.register(stub, select.POLLIN)
    try:
        server = os.pidfd_open(server_pid)
    except ProcessLookupError:
        signal.pidfd_send_signal(stub, signal.SIGKILL)
        return
    poll.register(server, select.POLLIN)
    gone = {descriptor for descriptor, _ in poll.poll()}
    if stub not in gone:
        signal.pidfd_send_signal(stub, signal.SIGKILL)


def _regions() -> list[Path]:
    """Return the shared memory that the server named on this stub's command line."""
    arguments = Path("/proc/self/cmdline").read_bytes().decode(errors="replace").split("\0")
    return [
        _SHARED_MEMORY / argument for argument in arguments if argument.startswith(_REGION_PREFIX)
    ]


if __name__ == "__main__":
    watch(int(sys.argv[1]), int(sys.argv[2]))
