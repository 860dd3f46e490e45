"""The engine cache: what was built once on such hardware is never built again.

An engine lies in `<root>/<key>/`, where the key is the hash of everything that decides what a build
yields. It is built beside that place and renamed into it when it is whole and on disk, so a folder
with a key for its name is complete, whatever was killed when. Before it is used it is checked.
"""

import asyncio
import hashlib
import json
import shutil
from collections import defaultdict
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import structlog

from engineshed.agent.engines.files import FileStamp, fsync_tree, hash_file, stamp
from engineshed.agent.engines.interface import BuildRequest, EngineBackend, Progress
from engineshed.triton.engine import FILE_NAME, EngineManifest, EngineManifestError

SCHEMA_VERSION: Final = 1
"""Raised when the layout of an engine changes: older ones are then built anew."""

_BUILDS_AT_ONCE: Final = 2
"""Each may need most of the host's memory; but a small one shall not wait for a large one."""

_STAMPS = "stamps.json"
_BUILDING = ".building"

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Engine:
    """An engine in the cache, whole and checked."""

    key: str
    directory: Path
    manifest: EngineManifest
    built: bool
    """False when it was there already."""


def cache_key(backend: EngineBackend, request: BuildRequest) -> str:
    """Return the name of what `backend` would build for `request`: 64 hex digits."""
    facts = {
        "schema": SCHEMA_VERSION,
        "backend": backend.name,
        "fingerprint": dict(backend.fingerprint()),
        "checkpoint": request.checkpoint.digest,
        "hardware": asdict(request.hardware),
        "max_context": request.max_context,
        "precision": request.precision,
        "quantization": request.quantization,
        "max_concurrent": request.max_concurrent,
    }
    canonical = json.dumps(facts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


class EngineCache:
    """The engines of one host. One process at a time owns the folder `root`."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._listeners: defaultdict[str, list[Progress]] = defaultdict(list)
        self._benches = asyncio.Semaphore(_BUILDS_AT_ONCE)

    def sweep(self) -> None:
        """Remove what was half built or half removed. Call it before the first build."""
        for leftover in self._root.glob(f"*{_BUILDING}"):
            shutil.rmtree(leftover)

    async def get(
        self, backend: EngineBackend, request: BuildRequest, progress: Progress, log_file: Path
    ) -> Engine:
        """Return the engine for `request`, building it if need be; once, however many ask.

        Everyone who waits for the same engine hears of its progress. The build's log goes to the
        log file of the one who asked first.

        Raises:
            EngineBuildError: it cannot be built.

        """
        key = await asyncio.to_thread(cache_key, backend, request)
        listeners = self._listeners[key]
        listeners.append(progress)
        try:
            async with self._locks[key]:
                if found := await self._find(key):
                    return found
                if self._benches.locked():
                    self._tell(key)("waiting for other builds", 0.0)
                async with self._benches:
                    return await self._build(key, backend, request, log_file)
        finally:
            listeners.remove(progress)

    async def drop_orphans(self, stored: Callable[[], Collection[str]]) -> None:
        """Remove the engines of checkpoints that are not in the store any more.

        Whatever runs or may run again holds its checkpoint, so no engine goes that is needed.

        Args:
            stored: returns the digests of the checkpoints in the store; none: it cannot be read.

        Raises:
            OSError: one could not be removed; the next call tries again.

        """
        for key in await asyncio.to_thread(self._keys):
            # Whoever has got the engine by now has a checkpoint that `stored` will name.
            async with self._locks[key]:
                await asyncio.to_thread(self._drop_orphan, key, stored)

    def _keys(self) -> list[str]:
        folders = (path.parent.name for path in self._root.glob(f"*/{FILE_NAME}"))
        return [name for name in folders if not name.endswith(_BUILDING)]

    def _drop_orphan(self, key: str, stored: Callable[[], Collection[str]]) -> None:
        directory, leftover = self._root / key, self._root / f"{key}{_BUILDING}"
        try:
            digest = EngineManifest.read(directory).checkpoint_digest
        except EngineManifestError:
            return  # gone, or damaged, which shows when somebody asks for it
        known = stored()
        if known and digest not in known:
            directory.rename(leftover)  # at once, so that no half of it is ever found
            shutil.rmtree(leftover)
            log.info("engine_dropped", key=key, checkpoint_digest=digest)

    async def _find(self, key: str) -> Engine | None:
        """Return the engine `key` if it is there and whole; remove one that is damaged."""
        directory = self._root / key
        if not directory.is_dir():
            return None
        progress = self._tell(key)
        progress("verifying", 0.0)
        try:
            manifest = await asyncio.to_thread(_checked, directory)
        except EngineManifestError as error:
            log.warning("engine_damaged", key=key, reason=str(error))
            await asyncio.to_thread(shutil.rmtree, directory)
            return None
        progress("verifying", 1.0)
        return Engine(key, directory, manifest, built=False)

    async def _build(
        self, key: str, backend: EngineBackend, request: BuildRequest, log_file: Path
    ) -> Engine:
        building = self._root / f"{key}{_BUILDING}"
        await asyncio.to_thread(_make_empty, building)
        try:
            manifest = await backend.build(request, building, self._tell(key), log_file)
            directory = self._root / key
            await asyncio.to_thread(_publish, building, manifest, directory)
        finally:
            shutil.rmtree(building, ignore_errors=True)  # gone already when it was published
        log.info("engine_built", key=key, backend=backend.name, digest=manifest.digest)
        return Engine(key, directory, manifest, built=True)

    def _tell(self, key: str) -> Progress:
        def progress(stage: str, fraction: float) -> None:
            for listener in self._listeners[key]:
                listener(stage, fraction)

        return progress


def _make_empty(directory: Path) -> None:
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)


def _publish(building: Path, manifest: EngineManifest, directory: Path) -> None:
    stamps = {path: asdict(stamp(building / path)) for path in manifest.files}
    (building / _STAMPS).write_text(json.dumps(stamps), encoding="utf-8")
    fsync_tree(building)
    building.rename(directory)
    fsync_tree(directory.parent, recursive=False)


def _checked(directory: Path) -> EngineManifest:
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


def _read_stamps(path: Path) -> dict[str, FileStamp]:
    try:
        stamps = json.loads(path.read_bytes())
        return {name: FileStamp(**fields) for name, fields in stamps.items()}
    except (OSError, ValueError, TypeError):
        return {}  # then every file is hashed
