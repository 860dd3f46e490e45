"""Files of the agent: small ones are replaced at once, growing ones lose what was dealt with."""

import ctypes
import errno
import os
from pathlib import Path
from typing import Final

_KEEP_SIZE: Final = 0x01
_PUNCH_HOLE: Final = 0x02
_UNSUPPORTED: Final = frozenset({errno.EOPNOTSUPP, errno.ENOSYS})


def write_private(path: Path, content: bytes, *, durable: bool = True) -> None:
    """Put `content` into `path` (0600), replacing what is there at once.

    Args:
        path: the file; its folder must exist, and this process alone writes it.
        content: all of it.
        durable: whether to wait until it is on disk; else it may be lost when the host dies.

    Raises:
        OSError: it could not be written; what was there before still is.

    """
    temporary = path.with_name(f".{path.name}.new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        if durable:
            file.flush()
            os.fsync(file.fileno())
    temporary.replace(path)
    if durable:
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


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
