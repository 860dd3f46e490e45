"""The engine cache, with a back end that writes a file: built once, checked before each use."""

import asyncio
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from engineshed.agent.engines.cache import EngineCache, cache_key
from engineshed.agent.engines.interface import Checkpoint, EngineBuildError, Progress

from .writing import REQUEST, WritingBackend, unheard


@pytest.fixture
def backend() -> WritingBackend:
    return WritingBackend()


@pytest.fixture
def cache(tmp_path: Path) -> EngineCache:
    return EngineCache(tmp_path / "engines")


async def test_only_so_many_engines_are_built_at_once_and_the_others_say_that_they_wait(
    cache: EngineCache, backend: WritingBackend, tmp_path: Path
) -> None:
    backend.let_go.clear()
    stages: asyncio.Queue[str] = asyncio.Queue()
    requests = [replace(REQUEST, max_context=length) for length in range(20, 23)]
    asked = [
        asyncio.create_task(
            cache.get(backend, each, lambda stage, _: stages.put_nowait(stage), tmp_path / "log")
        )
        for each in requests
    ]

    told = [await stages.get() for _ in asked]
    assert sorted(told) == ["waiting for other builds", "writing", "writing"]
    assert backend.builds == 2

    backend.let_go.set()
    assert all(engine.built for engine in await asyncio.gather(*asked))


async def test_an_engine_is_built_once_and_then_found(
    cache: EngineCache, backend: WritingBackend, tmp_path: Path
) -> None:
    built = await cache.get(backend, REQUEST, unheard, tmp_path / "log")
    found = await cache.get(backend, REQUEST, unheard, tmp_path / "log")

    assert (built.built, found.built) == (True, False)
    assert built.directory == found.directory == tmp_path / "engines" / built.key
    assert built.key == cache_key(backend, REQUEST)
    assert built.manifest == found.manifest
    assert (found.directory / "words").read_text() == "weights"


async def test_those_who_ask_at_the_same_time_share_one_build_and_all_hear_of_it(
    cache: EngineCache, backend: WritingBackend, tmp_path: Path
) -> None:
    backend.let_go.clear()
    heard: list[list[str]] = [[] for _ in range(5)]

    def listener(stages: list[str]) -> Progress:
        return lambda stage, _fraction: stages.append(stage)

    asking = [
        asyncio.create_task(cache.get(backend, REQUEST, listener(each), tmp_path / "log"))
        for each in heard
    ]
    await backend.started.wait()
    backend.let_go.set()
    engines = await asyncio.gather(*asking)

    assert backend.builds == 1
    assert [engine.built for engine in engines].count(True) == 1
    assert all("verifying" in each or "writing" in each for each in heard)


async def test_when_the_one_who_builds_is_cancelled_the_next_in_line_builds(
    cache: EngineCache, backend: WritingBackend, tmp_path: Path
) -> None:
    backend.let_go.clear()
    first = asyncio.create_task(cache.get(backend, REQUEST, unheard, tmp_path / "log"))
    await backend.started.wait()
    second = asyncio.create_task(cache.get(backend, REQUEST, unheard, tmp_path / "log"))
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    backend.let_go.set()

    assert (await second).built
    assert backend.builds == 2


async def test_a_failed_build_leaves_nothing_and_may_be_tried_again(
    cache: EngineCache, backend: WritingBackend, tmp_path: Path
) -> None:
    backend.error = EngineBuildError("NO_INK", "there is no ink", retryable=True)
    with pytest.raises(EngineBuildError, match="no ink"):
        await cache.get(backend, REQUEST, unheard, tmp_path / "log")
    assert list((tmp_path / "engines").iterdir()) == []

    backend.error = None
    assert (await cache.get(backend, REQUEST, unheard, tmp_path / "log")).built


@pytest.mark.parametrize("damage", ["changed", "truncated", "missing", "manifest"])
async def test_a_damaged_engine_is_built_anew(
    cache: EngineCache, backend: WritingBackend, tmp_path: Path, damage: str
) -> None:
    engine = await cache.get(backend, REQUEST, unheard, tmp_path / "log")
    words, manifest = engine.directory / "words", engine.directory / "engine.json"
    match damage:
        case "changed":
            words.write_text("weighTs")
        case "truncated":
            words.write_text("weigh")
        case "missing":
            words.unlink()
        case "manifest":
            manifest.write_text(
                manifest.read_text().replace('"max_context": 1', '"max_context": 9')
            )

    again = await cache.get(backend, REQUEST, unheard, tmp_path / "log")

    assert again.built
    assert (again.directory / "words").read_text() == "weights"


async def test_an_engine_that_was_moved_here_whole_is_taken(
    cache: EngineCache, backend: WritingBackend, tmp_path: Path
) -> None:
    engine = await cache.get(backend, REQUEST, unheard, tmp_path / "log")
    shutil.copytree(engine.directory, tmp_path / "others" / engine.key)

    found = await EngineCache(tmp_path / "others").get(backend, REQUEST, unheard, tmp_path / "log")

    assert not found.built


async def test_what_a_killed_build_left_is_swept_away(
    cache: EngineCache, backend: WritingBackend, tmp_path: Path
) -> None:
    engine = await cache.get(backend, REQUEST, unheard, tmp_path / "log")
    half = tmp_path / "engines" / f"{'0' * 64}.building"
    half.mkdir()
    (half / "words").write_text("wei")

    cache.sweep()

    assert list((tmp_path / "engines").iterdir()) == [engine.directory]


async def test_engines_go_with_the_last_checkpoint_that_they_can_be_built_from(
    cache: EngineCache, backend: WritingBackend, tmp_path: Path
) -> None:
    gone = replace(REQUEST, checkpoint=Checkpoint(Path("/nowhere"), "sha256:22"))
    kept = await cache.get(backend, REQUEST, unheard, tmp_path / "log")
    orphan = await cache.get(backend, gone, unheard, tmp_path / "log")

    await cache.drop_orphans(lambda: {REQUEST.checkpoint.digest})

    assert [path.name for path in (tmp_path / "engines").iterdir()] == [kept.key]
    again = await cache.get(backend, gone, unheard, tmp_path / "log")
    assert (again.key, again.built) == (orphan.key, True)


async def test_what_cannot_be_loaded_is_built_anew(
    cache: EngineCache, backend: WritingBackend, tmp_path: Path
) -> None:
    engine = await cache.get(backend, REQUEST, unheard, tmp_path / "log")

    with cache.kept(engine.key):
        await cache.condemn(engine.key)
        assert engine.directory.is_dir(), "another replica can load it"
    await cache.condemn(engine.key)

    assert not engine.directory.exists()
    assert (await cache.get(backend, REQUEST, unheard, tmp_path / "log")).built


async def test_no_engine_goes_because_the_store_cannot_be_read(
    cache: EngineCache, backend: WritingBackend, tmp_path: Path
) -> None:
    engine = await cache.get(backend, REQUEST, unheard, tmp_path / "log")

    await cache.drop_orphans(frozenset)

    assert engine.directory.is_dir()


async def test_a_build_under_way_is_no_orphan(
    cache: EngineCache, backend: WritingBackend, tmp_path: Path
) -> None:
    backend.let_go.clear()
    asking = asyncio.create_task(cache.get(backend, REQUEST, unheard, tmp_path / "log"))
    await backend.started.wait()

    await cache.drop_orphans(lambda: {"sha256:22"})

    backend.let_go.set()
    assert (await asking).directory.is_dir()
