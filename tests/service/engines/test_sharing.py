"""Two hosts with one store of engines: built on one, fetched by the other, and never poison."""

import asyncio
import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem

from engineshed.agent.engines import shelf
from engineshed.agent.engines.cache import Engine, EngineCache
from engineshed.agent.engines.interface import EngineBuildError
from engineshed.agent.engines.room import NO_LIMITS, Limits
from engineshed.agent.engines.store import EngineStore, Patience

from .writing import REQUEST, WritingBackend, unheard

SHORT = Patience(answer=0.05, download=0.05, upload=0.05)
LONG = Patience(answer=60.0, download=60.0, upload=60.0)


class Host:
    """A host with a cache of its own, and its own back end to see whether it had to build."""

    def __init__(
        self, root: Path, url: str, limits: Limits = NO_LIMITS, patience: Patience = LONG
    ) -> None:
        self.root = root
        self.backend = WritingBackend()
        self.cache = EngineCache(root, limits, store=EngineStore(url, patience))
        self.stages: list[str] = []
        assert self.cache.sharing is not None
        self.sharing = self.cache.sharing

    async def get(self) -> Engine:
        engine = await self.cache.get(
            self.backend, REQUEST, lambda stage, _: self.stages.append(stage), self.root / "log"
        )
        assert (engine.directory / "words").read_text() == "weights"
        return engine

    async def share(self) -> None:
        for key in shelf.keys(self.root):
            await self.sharing.add(key, self.root / key)


class SlowFileSystem(LocalFileSystem):  # type: ignore[misc]  # fsspec has no types
    """Files whose names end as `hangs` says are opened only when `go_on` is set."""

    protocol = "slow"
    cachable = False
    hangs = ""
    go_on = threading.Event()

    def __init__(self, **options: Any) -> None:
        super().__init__(auto_mkdir=True, **options)

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(super()._strip_protocol(path.removeprefix("slow://")))

    def open(self, path: str, *args: Any, **kwargs: Any) -> Any:
        if self.hangs and path.endswith(self.hangs):
            self.go_on.wait(60)
        return super().open(path, *args, **kwargs)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def slow(store: Path) -> Iterator[Callable[[str], str]]:
    """Return a function that says what hangs, and returns the URL of the store."""
    fsspec.register_implementation("slow", SlowFileSystem, clobber=True)

    def hang(name: str) -> str:
        SlowFileSystem.go_on.clear()
        SlowFileSystem.hangs = name
        return f"slow://{store}"

    yield hang
    SlowFileSystem.go_on.set()
    SlowFileSystem.hangs = ""


@pytest.fixture
def make(tmp_path: Path, store: Path) -> Callable[..., Host]:
    def host(name: str, url: str = "", **options: Any) -> Host:
        return Host(tmp_path / name, url or store.as_uri(), **options)

    return host


def entries(store: Path) -> list[Path]:
    return list(store.glob("*/entry.json"))


def entry_of(store: Path) -> Path:
    (entry,) = entries(store)
    return entry


async def test_what_cannot_be_loaded_leaves_the_store(
    make: Callable[..., Host], store: Path
) -> None:
    host = make("one")
    engine = await host.get()
    await host.share()
    assert entries(store)

    await host.cache.condemn(engine.key)

    assert not entries(store)
    assert (await host.get()).built


@pytest.mark.parametrize("scheme", ["file", "memory"])
async def test_what_one_host_built_another_fetches(make: Callable[..., Host], scheme: str) -> None:
    url = "" if scheme == "file" else "memory://engines-of-this-test"
    first, second = make("first", url), make("second", url)
    built = await first.get()
    await first.share()

    fetched = await second.get()

    assert (built.built, fetched.built, second.backend.builds) == (True, False, 0)
    assert fetched.manifest == built.manifest
    assert second.stages[0] == "fetching the engine"
    assert second.sharing.fetches["fetched"] == 1
    again = await second.get()
    assert second.stages[-1] == "verifying"
    assert again.directory == fetched.directory


async def test_engines_are_brought_to_the_store_in_the_background(
    make: Callable[..., Host], store: Path
) -> None:
    first = make("first")
    await first.get()
    sharing = asyncio.create_task(first.cache.share())
    try:
        async with asyncio.timeout(60):
            while shelf.unshared(first.root, store.as_uri()):
                await asyncio.sleep(0.01)
    finally:
        sharing.cancel()

    assert not (await make("second").get()).built
    assert [path.name for path in entry_of(store).parent.iterdir() if path.is_file()] == [
        "entry.json"
    ]


async def test_an_engine_is_brought_there_once(make: Callable[..., Host], store: Path) -> None:
    first, second = make("first"), make("second")
    await first.get()
    await second.get()  # both built: neither knew of the other
    await first.share()
    await second.share()

    assert (first.sharing.uploads["shared"], second.sharing.uploads["shared"]) == (1, 0)
    assert shelf.unshared(second.root, store.as_uri()) == []
    assert len(shelf.unshared(second.root, "file:///another/store")) == 1


def change_entry(**changes: Any) -> Callable[[Path], None]:
    def change(entry: Path) -> None:
        entry.write_text(json.dumps(json.loads(entry.read_text()) | changes))

    return change


def change_words(words: str | None) -> Callable[[Path], None]:
    def change(entry: Path) -> None:
        (path,) = entry.parent.glob("*/words")
        if words is None:
            path.unlink()
        else:
            path.write_text(words)

    return change


def lead_elsewhere(entry: Path) -> None:
    content = json.loads(entry.read_text())
    content["files"]["../../outside"] = content["files"].pop("words")
    (entry.parent.parent / "outside").write_text("weights")
    entry.write_text(json.dumps(content))


def leave_out_a_file(entry: Path) -> None:
    content = json.loads(entry.read_text())
    del content["files"]["words"]
    entry.write_text(json.dumps(content))


@pytest.mark.parametrize(
    "poison",
    [
        change_words("weighTs"),
        change_words("weigh"),
        change_words("weights and more"),
        change_words(None),
        lead_elsewhere,
        leave_out_a_file,
        change_entry(files=[]),
        change_entry(schema_version=2),
        change_entry(digest="../" + "0" * 61),
        lambda entry: entry.write_bytes(entry.read_bytes()[:100]),
        lambda entry: entry.write_bytes(b""),
    ],
    ids=range(11),
)
async def test_poison_is_not_taken_and_a_good_engine_takes_its_place(
    make: Callable[..., Host], store: Path, poison: Callable[[Path], None], tmp_path: Path
) -> None:
    first, second, third = make("first"), make("second"), make("third")
    await first.get()
    await first.share()
    poison(entry_of(store))

    engine = await second.get()
    assert engine.built
    assert second.sharing.fetches["poisoned"] == 1
    assert entries(store) == []
    assert {path.name for path in second.root.iterdir()} == {engine.key}
    assert not (tmp_path / "outside").exists()

    await second.share()
    assert not (await third.get()).built


async def test_the_engine_of_another_checkpoint_is_poison(
    make: Callable[..., Host], store: Path
) -> None:
    first, second = make("first"), make("second")
    await first.get()
    await first.share()
    other = await first.cache.get(
        first.backend,
        type(REQUEST)(type(REQUEST.checkpoint)(Path("/nowhere"), "sha256:22")),
        unheard,
        first.root / "log",
    )
    await first.sharing.add(other.key, other.directory)
    right = next(path.parent for path in entries(store) if path.parent.name != other.key)
    shutil.rmtree(right)
    shutil.copytree(store / other.key, right)

    engine = await second.get()

    assert engine.built
    assert engine.manifest.checkpoint_digest == REQUEST.checkpoint.digest


async def test_a_damaged_engine_is_not_shared(make: Callable[..., Host], store: Path) -> None:
    first = make("first")
    engine = await first.get()
    (engine.directory / "words").write_text("weighTs")

    await first.share()

    assert first.sharing.uploads["damaged"] == 1
    assert entries(store) == []


async def test_a_store_that_refuses_costs_a_build_and_gets_the_engine_later(
    make: Callable[..., Host], store: Path
) -> None:
    await asyncio.to_thread(store.write_text, "no folder")
    first = make("first")
    assert (await first.get()).built
    await first.share()
    assert (first.sharing.fetches["unreachable"], first.sharing.uploads["unreachable"]) == (1, 1)

    await asyncio.to_thread(store.unlink)
    await first.share()
    assert not (await make("second").get()).built


async def test_a_store_that_hangs_costs_a_build(
    make: Callable[..., Host], slow: Callable[[str], str]
) -> None:
    host = make("host", slow("entry.json"), patience=SHORT)

    assert (await host.get()).built
    assert host.sharing.fetches["unreachable"] == 1


async def test_a_download_that_stalls_costs_a_build_and_never_touches_what_is_built(
    make: Callable[..., Host], slow: Callable[[str], str]
) -> None:
    first = make("first")
    await first.get()
    await first.share()
    second = make("second", slow("words"), patience=replace(SHORT, answer=60.0))
    before = set(threading.enumerate())

    engine = await second.get()
    assert engine.built
    assert second.sharing.fetches["unreachable"] == 1
    content = {path.name: path.read_bytes() for path in engine.directory.iterdir()}
    assert {path.name for path in second.root.iterdir()} == {engine.key}

    SlowFileSystem.go_on.set()  # it goes on when nobody waits any more
    for thread in set(threading.enumerate()) - before:
        if thread.daemon:
            await asyncio.to_thread(thread.join, 60)
    assert {path.name: path.read_bytes() for path in engine.directory.iterdir()} == content
    assert {path.name for path in second.root.iterdir()} == {engine.key}


async def test_an_engine_is_not_evicted_while_it_is_brought_to_the_store(
    make: Callable[..., Host], slow: Callable[[str], str]
) -> None:
    host = make("host", slow("words"), limits=Limits(max_bytes=1))
    engine = await host.get()
    sharing = asyncio.create_task(host.cache.share())
    try:
        async with asyncio.timeout(60):
            while not host.cache._kept[engine.key]:
                await asyncio.sleep(0.01)
        await host.cache.make_room()
        assert engine.directory.is_dir()

        SlowFileSystem.go_on.set()
        async with asyncio.timeout(60):
            while not host.sharing.uploads["shared"]:
                await asyncio.sleep(0.01)
    finally:
        sharing.cancel()
        await asyncio.gather(sharing, return_exceptions=True)
    await host.cache.make_room()
    assert not engine.directory.exists()


async def test_nothing_is_fetched_onto_a_full_disk(make: Callable[..., Host]) -> None:
    first = make("first")
    engine = await first.get()
    await first.share()
    full = make("full", limits=Limits(min_free_bytes=shutil.disk_usage(engine.directory).total))

    with pytest.raises(EngineBuildError, match="must stay so"):
        await full.get()

    assert list(full.root.iterdir()) == []


KILLED = """
import asyncio, os, signal, sys
from pathlib import Path
from tests.service.engines.test_sharing import Host
from engineshed.agent.engines import store

host = Host(Path(sys.argv[2]), sys.argv[3])
copied = store._copy

def copy_and_die(*args):
    found = copied(*args)
    os.kill(os.getpid(), signal.SIGKILL)

async def main():
    if sys.argv[1] == "upload":
        await host.get()
    store._copy = copy_and_die
    await (host.share() if sys.argv[1] == "upload" else host.get())

asyncio.run(main())
"""


def half_there(store: Path) -> bool:
    return any(store.rglob("engine.json")) and not entries(store)


async def killed_in_the_middle(of: str, root: Path, store: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", KILLED, of, str(root), store.as_uri(), stderr=subprocess.PIPE
    )
    _, errors = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == -9, errors.decode()


async def test_half_an_upload_is_no_engine_and_is_done_again_by_the_next_agent(
    make: Callable[..., Host], store: Path, tmp_path: Path
) -> None:
    await killed_in_the_middle("upload", tmp_path / "first", store)
    assert half_there(store)
    assert (await make("second").get()).built

    await make("first").share()
    assert not (await make("third").get()).built


async def test_half_a_download_is_swept_away_and_begun_anew(
    make: Callable[..., Host], store: Path, tmp_path: Path
) -> None:
    first = make("first")
    await first.get()
    await first.share()
    await killed_in_the_middle("download", tmp_path / "second", store)
    second = make("second")
    assert shelf.keys(second.root) == []
    assert len(list(second.root.iterdir())) == 1

    second.cache.sweep()
    assert list(second.root.iterdir()) == []
    assert not (await second.get()).built
