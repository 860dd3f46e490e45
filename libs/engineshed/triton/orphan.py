"""For models in Triton's Python back end: ending with the server, however it ends.

A stub whose server was killed notices, but then often hangs on its way out, with the whole model in
memory, and leaves the shared memory behind that it had with the server.
"""

import os
import select
import threading
from pathlib import Path
from typing import Final

_SHARED_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - where the back end makes its regions
_REGION_PREFIX: Final = "triton_python_backend_shm_region_"


def end_with_server() -> None:
    """From now on, end this stub at once when the server, its parent, is gone."""
    # A descriptor, since by the pid alone a dead server could not be told from its successor; and
    # waiting for it, since an instant later the stub begins to take itself down.
    server = os.pidfd_open(os.getppid())
    threading.Thread(target=_wait_and_end, args=(server,), name="orphan", daemon=True).start()


def _wait_and_end(server: int) -> None:
    poll = select.poll()
    poll.register(server, select.POLLIN)
    poll.poll()
    for region in _regions():
        region.unlink(missing_ok=True)
    os._exit(1)


def _regions() -> list[Path]:
    """Return the shared memory that the server named on this stub's command line."""
    arguments = Path("/proc/self/cmdline").read_bytes().decode(errors="replace").split("\0")
    return [
        _SHARED_MEMORY / argument for argument in arguments if argument.startswith(_REGION_PREFIX)
    ]
