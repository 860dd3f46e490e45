"""Small files of the agent: replaced at once, and readable by their owner alone."""

import os
from pathlib import Path


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
