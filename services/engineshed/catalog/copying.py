"""Copying a checkpoint's files into the artifact store and hashing them, in threads.

Where the file system can, a copy shares its blocks with the source (reflink) and costs no room;
what is hashed is the copy, so the hash is that of what was stored.
"""

import errno
import fcntl
import hashlib
import os
import shutil
import threading
from collections.abc import Mapping
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import Final

from engineshed.catalog.domain.manifest import ManifestLine
from engineshed.catalog.source import Source, Stamp, stamp_of

_CHUNK: Final = 4 * 2**20  # bytes that each thread holds
# Files of one checkpoint at once. All cores can hash while two wait for the disk, which each file
# does at its end: with many small ones nobody would hash meanwhile.
_PARALLEL: Final = min(8, (os.cpu_count() or 1) + 2)
_FICLONE: Final = 0x40049409  # Linux: make this file share that one's blocks
_FILE_MODE: Final = 0o444
_KEPT_FREE: Final = 64 * 2**20  # bytes: the stores of the services may be on the same disk


class CopyError(Exception):
    """A file could not be copied; the text says which and why, to the checkpoint's owner."""


class CopyCancelledError(Exception):
    """Nobody wants the copy any more."""


@dataclass(slots=True)
class Copying:
    """A copy under way, between the threads that do it and those who watch it."""

    total_bytes: int
    _done_bytes: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _cancelled: threading.Event = field(default_factory=threading.Event)

    @property
    def done_bytes(self) -> int:
        """How much was copied and hashed."""
        return self._done_bytes

    def cancel(self) -> None:
        """End the copy soon; `copy_files` raises."""
        self._cancelled.set()

    def advance(self, count: int) -> None:
        """Count bytes that are copied and hashed.

        Raises:
            CopyCancelledError: the copy is to end.

        """
        if self._cancelled.is_set():
            raise CopyCancelledError
        with self._lock:
            self._done_bytes += count


def copy_files(
    source: Source, stamps: Mapping[str, Stamp], target: Path, copying: Copying
) -> tuple[ManifestLine, ...]:
    """Copy the files of `stamps` into the empty directory `target`; return their manifest.

    The files are on disk when it returns, the directories are not. What a failed copy left is the
    caller's to remove.

    Raises:
        CopyError: a file is missing, unreadable, has changed, or there is no room for it.
        CheckpointInvalidError, UriNotAllowedError: a file is no longer what it was.
        CopyCancelledError: `copying` was cancelled.

    """

    def copy(path: str) -> ManifestLine:
        try:
            with source.open(path) as file:
                sha256 = _copy_file(path, file, stamps[path], target / path, copying)
        except OSError as error:
            raise CopyError(f"{path}: {_explain(error, target)}") from error
        return ManifestLine(path, stamps[path].size_bytes, sha256)

    for path in stamps:
        (target / path).parent.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(_PARALLEL, thread_name_prefix="copy") as threads:
        # The largest first, so that none of them is left alone at the end.
        ordered = sorted(stamps, key=lambda path: -stamps[path].size_bytes)
        copies = [threads.submit(copy, path) for path in ordered]
        _, unfinished = wait(copies, return_when=FIRST_EXCEPTION)
        if unfinished:
            copying.cancel()
            threads.shutdown(cancel_futures=True)
    failed = [
        error for done in copies if not done.cancelled() and (error := done.exception()) is not None
    ]
    if failed:
        # The others were cancelled because of the first one.
        raise min(failed, key=lambda error: isinstance(error, CopyCancelledError))
    return tuple(sorted(done.result() for done in copies))


def _copy_file(path: str, source: FileIO, stamp: Stamp, target: Path, copying: Copying) -> str:
    """Copy one file, and return the sha256 of the copy."""
    _require_unchanged(path, source, stamp)
    descriptor = os.open(target, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(descriptor, "r+b", buffering=0) as copy:  # noqa: PTH123 - a descriptor, no path
        if _reflink(source, copy):
            sha256 = _hash(copy, None, stamp.size_bytes, copying)
        else:
            _require_room(copy, stamp.size_bytes)
            sha256 = _hash(source, copy, stamp.size_bytes, copying)
        _require_unchanged(path, source, stamp)
        if stamp_of(copy).size_bytes != stamp.size_bytes:
            raise CopyError(f"{path} changed while it was copied; register it again")
        os.fchmod(copy.fileno(), _FILE_MODE)
        os.fsync(copy.fileno())
    return sha256


def _hash(source: FileIO, copy: FileIO | None, size: int, copying: Copying) -> str:
    """Return the sha256 of the first `size` bytes of `source`, written to `copy` on the way."""
    sha256 = hashlib.sha256()
    buffer = memoryview(bytearray(min(_CHUNK, size) or 1))
    while size > 0:
        count = os.readv(source.fileno(), [buffer[: min(len(buffer), size)]])
        if count == 0:
            break  # it was cut off: the caller compares the sizes
        chunk = buffer[:count]
        sha256.update(chunk)
        if copy is not None:
            _require_room(copy, count)  # others write too
            _write_all(copy, chunk)
        size -= count
        copying.advance(count)
    return sha256.hexdigest()


def _write_all(file: FileIO, chunk: memoryview) -> None:
    while chunk:
        chunk = chunk[file.write(chunk) :]


def _reflink(source: FileIO, copy: FileIO) -> bool:
    """Make `copy` share the blocks of `source`; return False where that is not possible."""
    try:
        fcntl.ioctl(copy.fileno(), _FICLONE, source.fileno())
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
            raise
        return False
    return True


def _require_unchanged(path: str, file: FileIO, stamp: Stamp) -> None:
    now = stamp_of(file)
    if now.size_bytes != stamp.size_bytes:
        raise CopyError(
            f"{path} changed while it was copied: it had {stamp.size_bytes} bytes, now it has "
            f"{now.size_bytes}; register it again when it is finished"
        )
    if now.modified_ns != stamp.modified_ns:
        raise CopyError(
            f"{path} was written to while it was copied; register it again when it is finished"
        )


def _require_room(copy: FileIO, size: int) -> None:
    """Raise before the disk is full."""
    disk = os.fstatvfs(copy.fileno())
    if disk.f_bavail * disk.f_frsize < size + _KEPT_FREE:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _explain(error: OSError, target: Path) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        free = shutil.disk_usage(target).free
        return (
            f"{error.strerror} in the artifact store ({free} bytes are free, and {_KEPT_FREE} "
            "stay free); make room, then register it again"
        )
    return error.strerror or str(error)
