"""The engine cache: what was built once on such hardware is never built again.

An engine lies in `<root>/<key>/`, where the key is the hash of everything that decides what a build
yields. It is built, or fetched from a store that hosts share, beside that place and renamed into it
when it is whole and on disk, so a folder with a key for its name is complete, whatever was killed
when. Before it is used it is checked. When room is short, the least recently used ones go.
"""

import asyncio
import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Coroutine, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import structlog

from engineshed.agent.engines import shelf
from engineshed.agent.engines.interface import (
    BuildRequest,
    EngineBackend,
    EngineBuildError,
    Hardware,
    Progress,
)
from engineshed.agent.engines.room import NO_LIMITS, DiskFullError, Limits, Room
from engineshed.agent.engines.sharing import Sharing
from engineshed.agent.engines.store import FETCHING, EngineStore
from engineshed.triton.engine import EngineManifest, EngineManifestError

SCHEMA_VERSION: Final = 2
"""Raised when the layout of an engine changes: older ones are then built anew."""

_BUILDS_AT_ONCE: Final = 2
"""Each may need most of the host's memory; but a small one shall not wait for a large one."""

_GIB: Final = 2**30
_DISK_SECONDS: Final = 1.0
"""How often it is seen whether a build fills the disk."""
_SHARE_SECONDS: Final = 300.0
"""How soon an engine is brought to the store again that could not be brought there."""

VERIFYING: Final = "verifying"
"""The stage in which an engine that is there already is checked."""

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
    """Return the name of what `backend` would build for `request`: 64 hex digits. Reads files.

    Raises:
        EngineBuildError: what is asked for cannot be built.

    """
    facts = {
        "schema": SCHEMA_VERSION,
        "backend": backend.name,
        "fingerprint": dict(backend.fingerprint()),
        "checkpoint": request.checkpoint.digest,
        "hardware": _lasting(request.hardware),
        "recipe": dict(backend.recipe(request)),
    }
    canonical = json.dumps(facts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def _lasting(hardware: Hardware) -> dict[str, object]:
    """Return what of the hardware decides what a build yields.

    A driver keeps a little more or less of a GPU's memory for itself from one version to the next,
    and a CPU's memory is whatever its container may use: neither makes another engine.
    """
    memory = 0 if hardware.product == "cpu" else round(hardware.memory_bytes / _GIB)
    return asdict(hardware) | {"memory_bytes": memory}


class EngineCache:
    """The engines of one host. One process at a time owns the folder `root`."""

    def __init__(
        self,
        root: Path,
        limits: Limits = NO_LIMITS,
        in_use: Callable[[], Collection[str]] = frozenset,
        store: EngineStore | None = None,
    ) -> None:
        """Keep engines below `root`.

        Args:
            root: the folder.
            limits: how much of its disk they may take.
            in_use: returns the keys of those that replicas have; blocks.
            store: where they are shared with other hosts; None: they are not.

        """
        self.room = Room(root, limits, in_use)
        self.sharing = Sharing(store) if store else None
        self._root = root
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._listeners: defaultdict[str, list[Progress]] = defaultdict(list)
        self._benches = asyncio.Semaphore(_BUILDS_AT_ONCE)
        self._kept: Counter[str] = Counter()
        self._incoming: dict[str, int] = {}
        self._evicting = asyncio.Lock()
        self._built = asyncio.Event()

    def sweep(self) -> None:
        """Remove what was half built or half removed. Call it before the first build."""
        shelf.sweep(self._root)

    @contextmanager
    def kept(self, key: str) -> Iterator[None]:
        """Keep the engine `key` from being evicted: until its replica's folder names it, say."""
        self._kept[key] += 1
        try:
            yield
        finally:
            self._kept[key] -= 1

    async def get(
        self, backend: EngineBackend, request: BuildRequest, progress: Progress, log_file: Path
    ) -> Engine:
        """Return the engine for `request`, fetched or built if need be; once, however many ask.

        Everyone who waits for the same engine hears of its progress. The build's log goes to the
        log file of the one who asked first. Who must be sure that it stays asks within `kept`.

        Raises:
            EngineBuildError: it cannot be built.

        """
        key = await asyncio.to_thread(cache_key, backend, request)
        listeners = self._listeners[key]
        listeners.append(progress)
        try:
            with self.kept(key):
                async with self._locks[key]:
                    if found := await self._find(key):
                        return found
                    if fetched := await self._fetch(key, backend, request):
                        return fetched
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
        for key in await asyncio.to_thread(shelf.keys, self._root):
            # Whoever has got the engine by now has a checkpoint that `stored` will name.
            async with self._locks[key]:
                await asyncio.to_thread(self._drop_orphan, key, stored)

    async def condemn(self, key: str) -> None:
        """Remove an engine that is whole and yet cannot be loaded, from the store, too.

        It stays where another replica runs it: then it is not the engine's fault.

        Raises:
            OSError: it could not be removed.

        """
        async with self._locks[key]:
            if self._kept[key] or key in await asyncio.to_thread(self.room.in_use):
                return
            if self.sharing is not None:
                await self.sharing.condemn(key)
            if (directory := self._root / key).is_dir():
                await asyncio.to_thread(shelf.remove, directory)
            log.warning("engine_condemned", key=key)

    async def share(self) -> None:
        """Bring to the store what it has not got yet: at once, after each build, now and then."""
        while self.sharing is not None:
            self._built.clear()
            url = self.sharing.store.url
            for key in await asyncio.to_thread(shelf.unshared, self._root, url):
                with self.kept(key):
                    if not await self.sharing.add(key, self._root / key):
                        break  # what is left must wait, too
            with suppress(TimeoutError):
                async with asyncio.timeout(_SHARE_SECONDS):
                    await self._built.wait()

    async def make_room(self) -> None:
        """Evict engines until the limits are kept, or until all that are left are in use.

        Raises:
            OSError: one could not be removed; the next call tries again.

        """
        async with self._evicting:
            while True:
                kept, incoming = frozenset(+self._kept), sum(self._incoming.values())
                engine = await asyncio.to_thread(self.room.next_to_go, kept, incoming)
                if engine is None:
                    return
                # Whoever asks for it from now on waits; whoever asked before has it among those
                # kept or, when that is over, has a replica whose folder names it.
                async with self._locks[engine.key]:
                    if not self._kept[engine.key]:
                        await asyncio.to_thread(self.room.evict, engine)

    def _drop_orphan(self, key: str, stored: Callable[[], Collection[str]]) -> None:
        directory = self._root / key
        try:
            digest = EngineManifest.read(directory).checkpoint_digest
        except EngineManifestError:
            return  # gone, or damaged, which shows when somebody asks for it
        known = stored()
        if known and digest not in known:
            shelf.remove(directory)
            log.info("engine_dropped", key=key, checkpoint_digest=digest)

    async def _find(self, key: str) -> Engine | None:
        """Return the engine `key` if it is there and whole; remove one that is damaged."""
        directory = self._root / key
        if not directory.is_dir():
            return None
        progress = self._tell(key)
        progress(VERIFYING, 0.0)
        try:
            manifest = await asyncio.to_thread(shelf.checked, directory)
        except EngineManifestError as error:
            log.warning("engine_damaged", key=key, reason=str(error))
            await asyncio.to_thread(shelf.remove, directory)
            return None
        await asyncio.to_thread(shelf.mark_used, directory)
        progress(VERIFYING, 1.0)
        return Engine(key, directory, manifest, built=False)

    async def _fetch(
        self, key: str, backend: EngineBackend, request: BuildRequest
    ) -> Engine | None:
        """Return the engine `key` from the store; None when that has none, or not for us."""
        if self.sharing is None:
            return None
        self._tell(key)(FETCHING, 0.0)
        if (entry := await self.sharing.find(key)) is None:
            return None
        with self._expected(key, entry.size):
            try:
                await self._see_to_room(entry.size)
            except DiskFullError as error:
                log.warning("engine_not_fetched", key=key, reason=str(error))
                return None
            building = await asyncio.to_thread(shelf.begin, self._root, key)
            try:
                wanted, tell = (backend, request), self._tell(key)
                manifest = await self.sharing.fetch(key, entry, wanted, building, tell)
                if manifest is None:
                    return None
                await asyncio.to_thread(shelf.publish, building, manifest, self._root / key)
            finally:
                shelf.discard(building)
        return Engine(key, self._root / key, manifest, built=False)

    async def _build(
        self, key: str, backend: EngineBackend, request: BuildRequest, log_file: Path
    ) -> Engine:
        # An engine is about as large as the weights that it is made of.
        size = await asyncio.to_thread(shelf.size, request.checkpoint.directory)
        with self._expected(key, size):
            try:
                await self._see_to_room(0)  # it may well share the checkpoint's files
                building = await asyncio.to_thread(shelf.begin, self._root, key)
                try:
                    build = backend.build(request, building, self._tell(key), log_file)
                    manifest = await self._while_there_is_room(build)
                    directory = self._root / key
                    await asyncio.to_thread(shelf.publish, building, manifest, directory)
                finally:
                    shelf.discard(building)
            except DiskFullError as error:
                raise EngineBuildError("DISK_FULL", str(error), retryable=True) from error
        self._built.set()
        log.info("engine_built", key=key, backend=backend.name, digest=manifest.digest)
        return Engine(key, directory, manifest, built=True)

    @contextmanager
    def _expected(self, key: str, size: int) -> Iterator[None]:
        """Count so many bytes of an engine that is to come as if it were there."""
        self._incoming[key] = size
        try:
            yield
        finally:
            del self._incoming[key]

    async def _while_there_is_room(
        self, build: Coroutine[Any, Any, EngineManifest]
    ) -> EngineManifest:
        """Return what the build yields; cancel it when the disk fills up under it.

        Raises:
            DiskFullError: nothing that is idle is left to make room with.

        """
        building = asyncio.create_task(build)
        try:
            while not (await asyncio.wait({building}, timeout=_DISK_SECONDS))[0]:
                try:
                    await asyncio.to_thread(self.room.check)
                except DiskFullError:
                    await self._see_to_room(0)
            return building.result()
        finally:
            building.cancel()
            await asyncio.gather(building, return_exceptions=True)

    async def _see_to_room(self, certain: int) -> None:
        """Make room for all that is expected, and see that there is some for `certain` bytes.

        Raises:
            DiskFullError: there is none.

        """
        try:
            await self.make_room()
        except OSError as error:
            log.warning("no_room_made", error=str(error))
        await asyncio.to_thread(self.room.check, certain)

    def _tell(self, key: str) -> Progress:
        def progress(stage: str, fraction: float) -> None:
            for listener in self._listeners[key]:
                listener(stage, fraction)

        return progress
