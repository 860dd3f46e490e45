"""The folders of engines: `<root>/<key>/` holds one that is whole, `*.building/` holds what is not.

    <key>/
        engine.json   the manifest, with the sha256 of every other file
        …             the engine's files
        stamps.json   how they looked when they were put here, so that they need not be read again
        used          its mtime is when the engine was last used
        shared        the store of engines that has it, too; see `store`

A folder gets its place by being renamed, and loses it in the same way before it is removed. So
whatever is killed when, a folder with a key for its name was whole once. Everything here blocks.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Final

from engineshed.agent.engines.eviction import CachedEngine
from engineshed.agent.engines.files import FileStamp, fsync_tree, hash_file, stamp
from engineshed.triton.engine import FILE_NAME, EngineManifest, EngineManifestError

_BUILDING: Final = ".building"
_STAMPS: Final = "stamps.json"
_USED: Final = "used"
_SHARED: Final = "shared"


def sweep(root: Path) -> None:
    """Remove what is not whole: half built, half fetched or half removed."""
    for leftover in root.glob(f"*{_BUILDING}"):
        shutil.rmtree(leftover)


def keys(root: Path) -> list[str]:
    """Return the keys of all engines there are."""
    folders = (path.parent.name for path in root.glob(f"*/{FILE_NAME}"))
    return [name for name in folders if not name.endswith(_BUILDING)]


def begin(root: Path, key: str) -> Path:
    """Return a new, empty folder in which the engine `key` can come to be."""
    root.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix=f"{key}.", suffix=_BUILDING, dir=root))


def publish(building: Path, manifest: EngineManifest, directory: Path) -> None:
    """Give an engine that is whole its place; it is on disk when this returns."""
    stamps = {path: asdict(stamp(building / path)) for path in manifest.files}
    (building / _STAMPS).write_text(json.dumps(stamps), encoding="utf-8")
    (building / _USED).touch()
    fsync_tree(building)
    building.rename(directory)
    fsync_tree(directory.parent, recursive=False)


def remove(directory: Path) -> None:
    """Take an engine off the shelf at once, so that no half of it is ever found, and remove it."""
    leftover = begin(directory.parent, directory.name)
    with suppress(FileNotFoundError):  # it is gone already
        directory.rename(leftover)  # a folder may take the place of an empty one
    shutil.rmtree(leftover)


def discard(building: Path) -> None:
    """Remove what did not become an engine; nothing happens when it was published."""
    shutil.rmtree(building, ignore_errors=True)


def checked(directory: Path) -> EngineManifest:
    """Read the manifest of an engine and compare its files with it.

    A file that looks untouched since it was published is not read again: an engine may be hundreds
    of gigabytes. Any other is hashed.

    Raises:
        EngineManifestError: it is not whole.

    """
    manifest = EngineManifest.read(directory)
    if not manifest.is_whole:
        raise EngineManifestError(f"{directory / FILE_NAME} does not have the digest it states")
    known = _read_stamps(directory / _STAMPS)
    for path, expected in manifest.files.items():
        file = directory / path
        try:
            seen = stamp(file)
            if seen == known.get(path):
                continue
            whole = seen.size == expected.size and hash_file(file) == expected.sha256
        except OSError as error:
            raise EngineManifestError(f"{file} cannot be read: {error.strerror}") from error
        if not whole:
            raise EngineManifestError(f"{file} is not what was built")
    return manifest


def mark_used(directory: Path) -> None:
    """Remember on disk that the engine is used now; if the disk does not let us, it goes sooner."""
    with suppress(OSError):
        (directory / _USED).touch()


def mark_shared(directory: Path, store: str) -> None:
    """Remember on disk that the store with this URL has the engine; else it is looked up again."""
    with suppress(OSError):
        (directory / _SHARED).write_text(store, encoding="utf-8")


def unshared(root: Path, store: str) -> list[str]:
    """Return the keys of the engines that the store with this URL is not known to have."""
    return [key for key in keys(root) if _read_text(root / key / _SHARED) != store]


def engines(root: Path, in_use: Collection[str]) -> list[CachedEngine]:
    """Return what lies here; those of the keys `in_use` are marked as used just now."""
    found = []
    for key in keys(root):
        directory = root / key
        try:
            if key in in_use:
                mark_used(directory)
            found.append(_measured(directory, in_use=key in in_use))
        except FileNotFoundError:
            continue  # it went while we looked
    return found


def size(folder: Path) -> int:
    """Return what all files below `folder` come to, in bytes."""
    return sum(status.st_size for status in _files(folder))


def _measured(directory: Path, *, in_use: bool) -> CachedEngine:
    used = directory / _USED
    # An engine of an earlier release has no such file: it counts as used when it was built.
    used_at = (used if used.exists() else directory / FILE_NAME).stat().st_mtime
    files = list(_files(directory))
    return CachedEngine(
        key=directory.name,
        size=sum(status.st_size for status in files),
        # What has another name elsewhere (the checkpoint's, most likely) stays on the disk.
        frees=sum(status.st_blocks * 512 for status in files if status.st_nlink == 1),
        used_at=used_at,
        in_use=in_use,
    )


def _files(folder: Path) -> Iterator[os.stat_result]:
    for path, _, names in os.walk(folder):
        for name in names:
            try:
                yield Path(path, name).lstat()
            except FileNotFoundError:
                continue  # it goes while we look


def _read_stamps(path: Path) -> dict[str, FileStamp]:
    try:
        stamps = json.loads(path.read_bytes())
        return {name: FileStamp(**fields) for name, fields in stamps.items()}
    except (OSError, ValueError, TypeError):
        return {}  # then every file is hashed


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""
