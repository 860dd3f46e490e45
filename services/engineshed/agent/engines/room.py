"""The room that engines have on this host: how much, and who leaves when it is not enough.

Everything here blocks: call it in a thread.
"""

import shutil
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from engineshed.agent.engines import shelf
from engineshed.agent.engines.eviction import CachedEngine, Shortage, to_evict

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Limits:
    """How much of the disk engines may take."""

    max_bytes: int = 0
    """What all of them may come to; 0: as much as the disk has."""
    min_free_bytes: int = 0
    """What stays free on the disk, whatever is asked for."""


NO_LIMITS: Final = Limits()


class DiskFullError(Exception):
    """So little of the disk is free that nothing more may come; in words for operators."""


class Room:
    """The room below `root`.

    Attributes:
        evictions: how many engines had to go.
        evicted_bytes: what they came to.

    """

    def __init__(self, root: Path, limits: Limits, in_use: Callable[[], Collection[str]]) -> None:
        """Keep the limits, and never evict what `in_use` names: the keys of replicas' engines."""
        self._root = root
        self._limits = limits
        self.in_use = in_use
        self.evictions = 0
        self.evicted_bytes = 0

    def next_to_go(self, kept: Collection[str], incoming: int) -> CachedEngine | None:
        """Return the engine that must go next, but for those `kept`, for so many bytes to come."""
        engines = shelf.engines(self._root, {*kept, *self.in_use()})
        sizes = sum(engine.size for engine in engines)
        limit = self._limits.max_bytes
        shortage = Shortage(
            over_limit=sizes + incoming - limit if limit else 0,
            lacking_on_disk=self._limits.min_free_bytes + incoming - self._free(),
        )
        return next(iter(to_evict(engines, shortage)), None)

    def evict(self, engine: CachedEngine) -> None:
        """Remove an engine, unless a replica was given it meanwhile."""
        if engine.key in self.in_use():
            return
        shelf.remove(self._root / engine.key)
        self.evictions += 1
        self.evicted_bytes += engine.size
        log.info("engine_evicted", key=engine.key, bytes=engine.size, used_at=engine.used_at)

    def check(self, incoming: int = 0) -> None:
        """See that so many bytes may come.

        Raises:
            DiskFullError: they may not.

        """
        free, floor = self._free(), self._limits.min_free_bytes
        if free - incoming < floor:
            raise DiskFullError(
                f"{free / 1e9:.1f} GB are free where this node keeps engines, of which "
                f"{floor / 1e9:.1f} GB must stay so, and {incoming / 1e9:.1f} GB are to come: make "
                "room on its disk, or lower ENGINESHED_ENGINE_CACHE_MIN_FREE"
            )

    def _free(self) -> int:
        self._root.mkdir(parents=True, exist_ok=True)
        return shutil.disk_usage(self._root).free
