"""What this host has to do with the store of engines: it takes from it, it brings to it.

The store is a convenience. Whatever is wrong with it is logged and counted, and engines are built.
"""

import asyncio
from pathlib import Path

import structlog

from engineshed.agent.engines import shelf
from engineshed.agent.engines.interface import BuildRequest, EngineBackend, Progress
from engineshed.agent.engines.store import (
    EngineStore,
    PoisonedEntryError,
    StoredEngine,
    StoreUnreachableError,
)
from engineshed.telemetry import Outcomes
from engineshed.triton.engine import EngineManifest, EngineManifestError

log = structlog.get_logger()


class Sharing:
    """Sharing engines with other hosts by way of `store`.

    Attributes:
        fetches: how often what came of looking for an engine there.
        uploads: how often what came of bringing one there.

    """

    def __init__(self, store: EngineStore) -> None:
        self.store = store
        self.fetches = Outcomes("fetched", "missing", "poisoned", "unreachable")
        self.uploads = Outcomes("shared", "unreachable", "damaged")

    async def find(self, key: str) -> StoredEngine | None:
        """Return what the store has under `key`; None also when it is of no use."""
        try:
            entry = await self.store.find(key)
        except StoreUnreachableError as error:
            self._unreachable(key, error)
            return None
        except PoisonedEntryError as error:
            await self._withdraw(key, error)
            return None
        if entry is None:
            self.fetches["missing"] += 1
        return entry

    async def fetch(
        self,
        key: str,
        entry: StoredEngine,
        wanted: tuple[EngineBackend, BuildRequest],
        building: Path,
        progress: Progress,
    ) -> EngineManifest | None:
        """Copy an engine into the empty folder `building`, checked; None: it is of no use."""
        backend, request = wanted
        try:
            manifest = await self.store.fetch(key, entry, building, progress)
            found = (manifest.backend, manifest.checkpoint_digest)
            if found != (backend.name, request.checkpoint.digest):
                raise PoisonedEntryError(f"it is an engine of {' from '.join(found)}", entry)
        except StoreUnreachableError as error:
            self._unreachable(key, error)
            return None
        except PoisonedEntryError as error:
            await self._withdraw(key, error)
            return None
        await asyncio.to_thread(shelf.mark_shared, building, self.store.url)
        self.fetches["fetched"] += 1
        log.info("engine_fetched", key=key, bytes=entry.size, digest=manifest.digest)
        return manifest

    async def add(self, key: str, directory: Path) -> bool:
        """Bring an engine to the store, unless it has it; False: the store is out of reach."""
        try:
            added = await self.store.add(key, directory)
        except StoreUnreachableError as error:
            self.uploads["unreachable"] += 1
            log.warning("engine_not_shared", key=key, reason=str(error))
            return False
        except EngineManifestError as error:  # or gone meanwhile
            self.uploads["damaged"] += 1
            log.warning("engine_not_shared", key=key, reason=str(error))
            return True
        await asyncio.to_thread(shelf.mark_shared, directory, self.store.url)
        if added:
            self.uploads["shared"] += 1
            log.info("engine_shared", key=key)
        return True

    async def condemn(self, key: str) -> None:
        """Withdraw an engine that cannot be loaded, if the store has it."""
        if (entry := await self.find(key)) is not None:
            await self._withdraw(key, PoisonedEntryError("it cannot be loaded", entry))

    def _unreachable(self, key: str, error: StoreUnreachableError) -> None:
        self.fetches["unreachable"] += 1
        log.warning("engine_store_unreachable", key=key, reason=str(error))

    async def _withdraw(self, key: str, poison: PoisonedEntryError) -> None:
        self.fetches["poisoned"] += 1
        log.error("engine_store_poisoned", key=key, reason=str(poison))
        try:
            await self.store.withdraw(key, poison.entry)
        except StoreUnreachableError as error:  # then it stays for the next one to find
            log.warning("engine_not_withdrawn", key=key, reason=str(error))
