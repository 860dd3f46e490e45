"""Files of checkpoints and engines: copying without copying, hashing, getting them on disk."""

import fcntl
import hashlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_FICLONE: Final = 0x40049409
"""The ioctl of Linux that makes one file share the blocks of another until either changes."""


@dataclass(frozen=True, slots=True)
class FileStamp:
    """What changes when a file's content does, short of reading it."""

    size: int
    mtime_ns: int
    inode: int


def stamp(path: Path) -> FileStamp:
    """Return the file's stamp."""
    status = path.stat()
    return FileStamp(status.st_size, status.st_mtime_ns, status.st_ino)


def hash_file(path: Path) -> str:
    """Return the sha256 of the file's content, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def place(source: Path, destination: Path) -> None:
    """Make `destination` a file with the content of `source`, which may be removed afterwards.

    Shares the blocks where the file system can (reflink), else is the same file under a second
    name (hard link: nobody rewrites the files of a checkpoint), else a copy.
    """
    destination.parent.mkdir(parents=True, exist_ok=True)
    origin = source.resolve()
    if _reflinked(origin, destination):
        return
    try:
        os.link(origin, destination)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(origin, destination)


def fsync_tree(directory: Path, *, recursive: bool = True) -> None:
    """Wait until the folder (and, if `recursive`, all below it) is on disk."""
    if recursive:
        for path in sorted(directory.rglob("*")):
            _fsync(path)
    _fsync(directory)


def _reflinked(source: Path, destination: Path) -> bool:
    with source.open("rb") as origin, destination.open("xb") as copy:
        try:
            fcntl.ioctl(copy.fileno(), _FICLONE, origin.fileno())
        except OSError:
            destination.unlink()
            return False
    return True


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
