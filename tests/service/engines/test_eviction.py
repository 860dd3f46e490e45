"""Room for engines: real folders with limits, what goes, what stays, and what a kill leaves."""

import asyncio
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from engineshed.agent.engines import shelf
from engineshed.agent.engines.cache import Engine, EngineCache
from engineshed.agent.engines.interface import BuildRequest, EngineBuildError
from engineshed.agent.engines.room import Limits

from .writing import REQUEST, WritingBackend, unheard


def request(number: int) -> BuildRequest:
    return replace(REQUEST, max_context=number)


class Shelf:
    """A cache whose engines were last used in the order in which they were built."""

    def __init__(self, root: Path, backend: WritingBackend) -> None:
        self.root = root
        self.backend = backend
        self.used: set[str] = set()

    def cache(self, engines: float | None = None, min_free: int = 0) -> EngineCache:
        """Return a cache with room for so many engines."""
        largest = max((shelf.size(path) for path in self.root.glob("*")), default=0)
        limits = Limits(int((engines or 0) * largest), min_free)
        return EngineCache(self.root, limits, lambda: frozenset(self.used))

    async def get(self, cache: EngineCache, number: int) -> Engine:
        log = self.root.parent / "build.log"
        return await cache.get(self.backend, request(number), unheard, log)

    async def fill(self, count: int) -> list[Engine]:
        engines = [await self.get(self.cache(), number) for number in range(10, 10 + count)]
        for age, engine in enumerate(reversed(engines)):
            os.utime(engine.directory / "used", (1_000_000 - age, 1_000_000 - age))
        return engines

    def keys(self) -> set[str]:
        return set(shelf.keys(self.root))


@pytest.fixture
def backend() -> WritingBackend:
    return WritingBackend()


@pytest.fixture
def cached(tmp_path: Path, backend: WritingBackend) -> Shelf:
    return Shelf(tmp_path / "engines", backend)


async def test_the_least_recently_used_goes_when_there_are_too_many(cached: Shelf) -> None:
    _, second, third = await cached.fill(3)
    cache = cached.cache(engines=2)

    await cache.make_room()

    assert cached.keys() == {second.key, third.key}
    assert {path.name for path in cached.root.iterdir()} == cached.keys()
    assert cache.room.evictions == 1
    assert cache.room.evicted_bytes > 0


async def test_a_use_is_remembered_by_the_next_agent(cached: Shelf) -> None:
    first, _, third = await cached.fill(3)
    await cached.get(cached.cache(), 10)

    await cached.cache(engines=2).make_room()

    assert cached.keys() == {first.key, third.key}


async def test_what_a_replica_has_stays_and_counts_as_used_until_the_replica_is_gone(
    cached: Shelf,
) -> None:
    first, _, third = await cached.fill(3)
    cached.used.add(first.key)
    await cached.cache(engines=2).make_room()
    assert cached.keys() == {first.key, third.key}

    cached.used.clear()
    await cached.cache(engines=1).make_room()
    assert cached.keys() == {first.key}


async def test_what_is_being_prepared_stays(cached: Shelf) -> None:
    first, _ = await cached.fill(2)
    cache = cached.cache(engines=0.5)

    with cache.kept(first.key):
        await cache.make_room()
        assert cached.keys() == {first.key}

    await cache.make_room()
    assert cached.keys() == set()


async def test_one_that_is_asked_for_while_others_go_is_given_whole(cached: Shelf) -> None:
    await cached.fill(4)
    cache = cached.cache(engines=0.5)

    async def use(number: int) -> str:
        engine = await cached.get(cache, number)
        with cache.kept(engine.key):
            return (engine.directory / "words").read_text()

    words, _ = await asyncio.gather(use(10), cache.make_room())

    assert words == "weights"


async def test_room_is_made_before_an_engine_is_built(cached: Shelf, tmp_path: Path) -> None:
    first, second = await cached.fill(2)
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "weights").write_bytes(bytes(shelf.size(first.directory)))
    checkpoint = replace(REQUEST.checkpoint, directory=tmp_path / "checkpoint")
    cached.backend.let_go.clear()

    cached.backend.started.clear()
    build = asyncio.create_task(
        cached.cache(engines=2.5).get(
            cached.backend, replace(REQUEST, checkpoint=checkpoint), unheard, tmp_path / "log"
        )
    )
    await cached.backend.started.wait()
    assert cached.keys() == {second.key}

    cached.backend.let_go.set()
    assert (await build).built


async def test_nothing_is_built_onto_a_full_disk_and_what_is_idle_goes_first(
    cached: Shelf, tmp_path: Path
) -> None:
    _, second = await cached.fill(2)
    cached.used.add(second.key)
    cache = cached.cache(min_free=shutil.disk_usage(tmp_path).total)

    with pytest.raises(EngineBuildError, match="must stay so") as refused:
        await cached.get(cache, 99)

    assert (refused.value.code, refused.value.retryable) == ("DISK_FULL", True)
    assert cached.keys() == {second.key}
    assert cached.backend.builds == 2


async def test_a_build_under_which_the_disk_fills_up_is_cancelled_once_nothing_idle_is_left(
    cached: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await cached.fill(2)
    disk = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("engineshed.agent.engines.cache._DISK_SECONDS", 0.01)
    cached.backend.started.clear()
    cached.backend.let_go.clear()
    build = asyncio.create_task(cached.get(cached.cache(min_free=1), 99))
    await cached.backend.started.wait()
    assert len(cached.keys()) == 2

    monkeypatch.setattr(shutil, "disk_usage", lambda _: disk._replace(free=0))
    with pytest.raises(EngineBuildError, match="must stay so"):
        await build

    assert list(cached.root.iterdir()) == []


async def test_what_is_there_is_given_though_the_disk_is_full(
    cached: Shelf, tmp_path: Path
) -> None:
    await cached.fill(1)

    found = await cached.get(cached.cache(min_free=shutil.disk_usage(tmp_path).total), 10)

    assert not found.built


async def test_an_engine_that_shares_its_files_does_not_go_for_the_sake_of_the_disk(
    cached: Shelf, tmp_path: Path
) -> None:
    shared, _ = await cached.fill(2)
    for path in list(shared.directory.iterdir()):
        (tmp_path / f"other name of {path.name}").hardlink_to(path)

    await cached.cache(min_free=shutil.disk_usage(tmp_path).total).make_room()

    assert cached.keys() == {shared.key}


EVICT = """
import os, shutil, signal, sys
from pathlib import Path
from engineshed.agent.engines import shelf

def removed_in_part(folder):
    (folder / sys.argv[2]).unlink()
    os.kill(os.getpid(), signal.SIGKILL)

shutil.rmtree = removed_in_part
shelf.remove(Path(sys.argv[1]))
"""


@pytest.mark.parametrize("file", ["words", "engine.json", "stamps.json", "used"])
async def test_an_eviction_that_is_killed_half_way_leaves_no_half_engine(
    cached: Shelf, file: str
) -> None:
    (engine,) = await cached.fill(1)

    killed = subprocess.run(  # noqa: ASYNC221 - nothing else goes on
        [sys.executable, "-c", EVICT, str(engine.directory), file], check=False, timeout=60
    )
    assert killed.returncode == -9
    assert cached.keys() == set()

    cache = cached.cache()
    cache.sweep()
    assert list(cached.root.iterdir()) == []
    assert (await cached.get(cache, 10)).built
