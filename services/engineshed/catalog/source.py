"""Reaching the directory that a checkpoint is registered from, and nothing beside it.

Links are followed, for Hugging Face caches are made of them, and then it is looked where they
led: every file is judged by its real path at the moment when it is opened. Only regular files are
ever opened.
"""

import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from io import FileIO
from itertools import islice
from pathlib import Path
from typing import Final
from urllib.parse import unquote_to_bytes, urlsplit

from engineshed.catalog.domain.errors import CheckpointInvalidError, UriNotAllowedError

_MAX_ENTRIES: Final = 10_000  # of a directory


@dataclass(frozen=True, slots=True)
class Reach:
    """Which paths may be read."""

    roots: tuple[Path, ...] | None  # None: any
    never: tuple[Path, ...]  # the platform's own files

    def require(self, path: Path) -> None:
        """Raise UriNotAllowedError unless the real path `path` may be read."""
        if any(path.is_relative_to(forbidden) for forbidden in self.never):
            raise UriNotAllowedError.of("the platform's own files cannot be registered")
        if self.roots is not None and not any(path.is_relative_to(root) for root in self.roots):
            raise UriNotAllowedError.of(
                "it is not, or leads out of, a directory that the operator opened for imports "
                "(ENGINESHED_IMPORT_ROOTS); put the files there or ask an operator to register them"
            )


def reach(*, anywhere: bool, roots: Iterable[Path], never: Iterable[Path]) -> Reach:
    """Return what may be read: below `roots`, or `anywhere`, but `never` these."""
    resolved = tuple(Path(os.path.realpath(root)) for root in roots)
    forbidden = tuple(Path(os.path.realpath(path)) for path in never)
    return Reach(None if anywhere else resolved, forbidden)


@dataclass(frozen=True, slots=True)
class Stamp:
    """By which a change of a file is noticed."""

    size_bytes: int
    modified_ns: int


@dataclass(frozen=True, slots=True)
class Source:
    """A directory that may be read."""

    directory: Path  # its real path
    reach: Reach

    @classmethod
    def at(cls, path: str, allowed: Reach) -> "Source":
        """Return the directory at `path`.

        Raises:
            UriNotAllowedError: it leads to where the caller may not read.
            CheckpointInvalidError: it is not a directory.

        """
        real = Path(os.path.realpath(path))
        allowed.require(real)  # before looking: the error must not tell what is elsewhere
        try:
            found = stat.S_ISDIR(real.stat().st_mode)
        except OSError as error:
            raise _unreadable(path, error) from error
        if not found:
            raise CheckpointInvalidError.of(
                f"{path} is not a directory; name the one that holds config.json"
            )
        return cls(real, allowed)

    def names(self, folder: str = "") -> list[str]:
        """Return the files in the directory, or in a folder of it, as paths within it.

        Links are among them, wherever they lead; a folder that is not there is empty.

        Raises:
            UriNotAllowedError: the folder leads to where the caller may not read.
            CheckpointInvalidError: it cannot be listed, or holds far too much.

        """
        path = self.directory / folder
        self.reach.require(Path(os.path.realpath(path)))
        try:
            with os.scandir(path) as entries:
                found = list(islice(entries, _MAX_ENTRIES + 1))
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise _unreadable(str(path), error) from error
        if len(found) > _MAX_ENTRIES:
            raise CheckpointInvalidError.of(
                f"{path} has more than {_MAX_ENTRIES} entries; is it the right directory?"
            )
        files = [
            entry for entry in found if entry.is_file(follow_symlinks=False) or entry.is_symlink()
        ]
        prefix = f"{folder}/" if folder else ""
        return [f"{prefix}{file.name}" for file in files if file.name.isprintable()]

    def open(self, name: str) -> FileIO:
        """Open a file of the directory for reading.

        Raises:
            UriNotAllowedError: it leads to where the caller may not read.
            CheckpointInvalidError: it is missing, unreadable or not a regular file.

        """
        path = self.directory / name
        self.reach.require(Path(os.path.realpath(path)))  # before looking, as above
        try:
            # O_PATH opens nothing yet: so a device or a FIFO is never touched, and what is judged
            # is what is then read, whatever becomes of the name meanwhile.
            handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError as error:
            raise _unreadable(name, error) from error
        try:
            judged = Path(f"/proc/self/fd/{handle}")
            self.reach.require(judged.readlink())
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise CheckpointInvalidError.of(f"{name} is not a regular file", file=name)
            return judged.open("rb", buffering=0)
        except OSError as error:
            raise _unreadable(name, error) from error
        finally:
            os.close(handle)


def stamp_of(file: FileIO) -> Stamp:
    """Return the stamp of an open file."""
    status = os.fstat(file.fileno())
    return Stamp(status.st_size, status.st_mtime_ns)


def path_of(uri: str) -> str:
    """Return the absolute path that a `file://` URI names.

    Raises:
        CheckpointInvalidError: it is another kind of URI, or names another host.

    """
    if not uri.isprintable():
        raise CheckpointInvalidError.of(f"{uri!r} is not a URI")
    try:
        parts = urlsplit(uri)
    except ValueError as error:
        raise CheckpointInvalidError.of(f"{uri!r} is not a URI ({error})") from error
    if not parts.scheme:
        raise CheckpointInvalidError.of(
            f"{uri!r} has no scheme; write file:// before an absolute path, e.g. file:///models/bot"
        )
    if parts.scheme != "file":
        raise CheckpointInvalidError.of(
            f"{parts.scheme}:// is not supported yet; use file:// with a directory that the "
            "catalog's host can read"
        )
    if parts.netloc not in ("", "localhost"):
        raise CheckpointInvalidError.of(
            f"{parts.netloc!r} would be another host; a path on this one has three slashes: "
            "file:///models/bot"
        )
    if parts.query or parts.fragment:
        raise CheckpointInvalidError.of("'?' and '#' in a path are written %3F and %23")
    try:
        path = unquote_to_bytes(parts.path).decode()
    except UnicodeDecodeError as error:
        raise CheckpointInvalidError.of(f"{uri!r} is not UTF-8 when decoded") from error
    if not path.startswith("/") or not path.isprintable():
        raise CheckpointInvalidError.of(f"{uri!r} names no absolute path")
    return path


def _unreadable(name: str, error: OSError) -> CheckpointInvalidError:
    if isinstance(error, FileNotFoundError):
        return CheckpointInvalidError.of(f"{name} is missing", file=name)
    return CheckpointInvalidError.of(f"{name} cannot be read: {error.strerror}", file=name)
