"""Setting aside what is in a log, though somebody appends to it and will not open it anew."""

import ctypes
import errno
import os
import shutil
from pathlib import Path
from typing import Final

_COLLAPSE_RANGE: Final = 0x08
_UNSUPPORTED: Final = frozenset({errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL})


def set_aside(log: Path, before: Path) -> None:
    """Move what is in `log` to `before`, but for its last block, which may be in the making.

    Both together hold every byte, in order; a line may begin in one and end in the other. Where the
    file system cannot cut off a beginning (ext4 and XFS can), `log` is emptied, and what is written
    just then is lost.

    Raises:
        OSError: it failed; what is in `log` still is.

    """
    with log.open("rb") as source:
        block = os.fstatvfs(source.fileno()).f_bsize
        end = max(0, os.fstat(source.fileno()).st_size - 1) // block * block
        with before.open("wb") as copy:
            shutil.copyfileobj(source, copy)
            if _cut_beginning(log, end):
                copy.truncate(end)
            else:
                os.truncate(log, 0)


def _cut_beginning(path: Path, end: int) -> bool:
    """Remove what lies before `end`, whole blocks, at once; False where that cannot be done."""
    libc = ctypes.CDLL(None, use_errno=True)
    with path.open("r+b") as file:
        start, length = ctypes.c_longlong(0), ctypes.c_longlong(end)
        if libc.fallocate64(file.fileno(), _COLLAPSE_RANGE, start, length) == 0:
            return True
    number = ctypes.get_errno()
    if number not in _UNSUPPORTED:
        raise OSError(number, os.strerror(number), str(path))
    return False
