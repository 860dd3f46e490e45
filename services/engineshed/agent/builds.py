"""Builds under way: one for an engine, however many replicas wait for it.

A build goes on for as long as one replica wants its engine, whoever asked first, and is cancelled
with the last. Every replica that waits sees its log, under a name of its own (a hard link).
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from engineshed.agent.engines.cache import VERIFYING, Engine, EngineCache, cache_key
from engineshed.agent.engines.interface import BuildRequest, EngineBackend, EngineBuildError
from engineshed.agent.engines.room import NO_LIMITS, Limits, Room
from engineshed.agent.engines.sharing import Sharing
from engineshed.agent.engines.store import FETCHING, EngineStore

log = structlog.get_logger()

Tell = Callable[[str, float, bool], None]
"""Called with a stage, its fraction done, and whether something is really built."""


@dataclass(slots=True)
class _Build:
    task: asyncio.Task[Engine]
    log: Path
    listeners: list[Tell] = field(default_factory=list)
    news: tuple[str, float, bool] | None = None
    """What was last told, for those who come later."""

    def join(self, tell: Tell) -> None:
        self.listeners.append(tell)
        if self.news is not None:
            tell(*self.news)

    def tell(self, stage: str, fraction: float, building: bool) -> None:
        self.news = (stage, fraction, building)
        for listener in self.listeners:
            listener(*self.news)


class Builds:
    """The builds of this host, by what they build."""

    def __init__(
        self,
        root: Path,
        logs: Path,
        limits: Limits = NO_LIMITS,
        in_use: Callable[[], Collection[str]] = frozenset,
        store: EngineStore | None = None,
    ) -> None:
        """Keep engines below `root`, and the logs of builds under way below `logs`.

        What engines are evicted for their room, and which never, and where they are shared is
        said to `EngineCache`.
        """
        self.root = root
        self._logs = logs
        self._cache = EngineCache(root, limits, in_use, store)
        self._running: dict[str, _Build] = {}

    @property
    def running(self) -> int:
        """How many are under way."""
        return sum(not build.task.done() for build in list(self._running.values()))

    @property
    def room(self) -> Room:
        """The room that engines have, and what was evicted from it."""
        return self._cache.room

    @property
    def sharing(self) -> Sharing | None:
        """What came of sharing engines; None: they are not shared."""
        return self._cache.sharing

    def sweep(self) -> None:
        """Remove what builds left that were killed. Call it before the first build; blocks."""
        for folder in (self.root, self._logs):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._cache.sweep()
        for leftover in self._logs.iterdir():
            leftover.unlink()

    async def drop_orphans(self, stored: Callable[[], Collection[str]]) -> None:
        """Remove engines that nobody can ask for any more; see `EngineCache`."""
        await self._cache.drop_orphans(stored)

    async def condemn(self, key: str) -> None:
        """Remove an engine that cannot be loaded; see `EngineCache`."""
        await self._cache.condemn(key)

    async def make_room(self) -> None:
        """Evict engines for which there is no room; see `EngineCache`."""
        await self._cache.make_room()

    async def share(self) -> None:
        """Bring engines to the store, if there is one, until cancelled; see `EngineCache`."""
        await self._cache.share()

    @asynccontextmanager
    async def engine(
        self, backend: EngineBackend, request: BuildRequest, tell: Tell, log_file: Path
    ) -> AsyncIterator[Engine]:
        """Give the engine for `request`, from the cache if it is there; it stays within the block.

        By the block's end the replica's folder must name the engine, for it to stay longer.

        Raises:
            EngineBuildError: it cannot be built.

        """
        key = await asyncio.to_thread(cache_key, backend, request)
        with self._cache.kept(key):
            yield await self._get(key, backend, request, tell, log_file)

    async def _get(
        self, key: str, backend: EngineBackend, request: BuildRequest, tell: Tell, log_file: Path
    ) -> Engine:
        build = self._running.get(key)
        if build is None:
            build = self._running[key] = self._start(key, backend, request)
        build.join(tell)
        try:
            await asyncio.to_thread(_link, build.log, log_file)
            return await asyncio.shield(build.task)
        finally:
            build.listeners.remove(tell)
            if not build.listeners:
                await self._end(key, build)

    def _start(self, key: str, backend: EngineBackend, request: BuildRequest) -> _Build:
        build_log = self._logs / f"{key}.log"
        build_log.touch(mode=0o600)
        # With a store nobody knows before it has answered.
        cold = self.sharing is None and not (self.root / key).is_dir()

        def progress(stage: str, fraction: float) -> None:
            nonlocal cold
            # An engine that there is comes and is checked; any other stage is one of a build.
            cold = cold or stage not in (VERIFYING, FETCHING)
            build.tell(stage, fraction, cold)

        task = asyncio.create_task(self._build(backend, request, progress, build_log))
        build = _Build(task, build_log)
        if cold:
            build.tell("starting", 0.0, True)
        return build

    async def _build(
        self,
        backend: EngineBackend,
        request: BuildRequest,
        progress: Callable[[str, float], None],
        build_log: Path,
    ) -> Engine:
        fit = await asyncio.to_thread(backend.fits, request)
        if not fit.fits:
            raise EngineBuildError("DOES_NOT_FIT", fit.reason, retryable=False)
        return await self._cache.get(backend, request, progress, build_log)

    async def _end(self, key: str, build: _Build) -> None:
        """Forget a build that nobody waits for, and cancel it if it still goes on."""
        if self._running.get(key) is build:
            del self._running[key]
            build.log.unlink(missing_ok=True)  # the replicas' own names for it stay
        if not build.task.done():
            log.info("build_cancelled", key=key)
            build.task.cancel()
        await asyncio.gather(build.task, return_exceptions=True)


def _link(build_log: Path, log_file: Path) -> None:
    log_file.unlink(missing_ok=True)
    log_file.hardlink_to(build_log)
