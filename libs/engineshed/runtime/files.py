"""Files that hold secrets or state: readable by their owner alone, whole or not there."""

import os
import tempfile
from pathlib import Path


def write_private(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Put `data` into `path` (0600), replacing it at once; its folder is made (0700) if missing.

    Args:
        path: the file.
        data: all of its content.
        durable: whether to wait until it is on disk; else it may be lost when the host dies.

    Raises:
        OSError: it could not be written; what was there before still is.

    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        Path(temporary).replace(path)
    except OSError:
        Path(temporary).unlink(missing_ok=True)
        raise
    if durable:
        _sync(path.parent)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
