"""Files that others append to lose what was dealt with."""

import ctypes
import errno
import os
from pathlib import Path
from typing import Final

_KEEP_SIZE: Final = 0x01
_PUNCH_HOLE: Final = 0x02
_UNSUPPORTED: Final = frozenset({errno.EOPNOTSUPP, errno.ENOSYS})


def free_beginning(path: Path, end: int) -> None:
    """Give the disk back what lies before `end` in a file that others go on appending to.

    Everything keeps its place; what was freed reads as zeros. Does nothing where the file system
    cannot do that.

    Raises:
        OSError: it failed.

    """
    libc = ctypes.CDLL(None, use_errno=True)
    with path.open("r+b") as file:
        whole, start = ctypes.c_longlong(end), ctypes.c_longlong(0)
        if libc.fallocate64(file.fileno(), _PUNCH_HOLE | _KEEP_SIZE, start, whole) == 0:
            return
    number = ctypes.get_errno()
    if number not in _UNSUPPORTED:
        raise OSError(number, os.strerror(number), str(path))
