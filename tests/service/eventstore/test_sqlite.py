"""What only a store in an SQLite file has to hold: its file, its flushes, a full disk, a lock."""

import asyncio
import sqlite3
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from sqlalchemy import Connection

from engineshed.eventstore import EventStore, Metadata, StoreUnavailableError, StreamAppend

OpenStore = Callable[..., Awaitable[EventStore]]


def to(stream: str, expected_version: int, size: int = 1) -> StreamAppend:
    event = StringValue(value="x" * size)
    return StreamAppend(stream, expected_version, [event], Metadata("tok_1", "org_1"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


@pytest.fixture
def database_url(path: Path) -> str:
    return f"sqlite:///{path}"


@pytest.fixture(params=["new", "found"])
def database(request: pytest.FixtureRequest, path: Path) -> None:
    if request.param == "found":
        path.touch(mode=0o644)


@pytest.mark.usefixtures("database")
async def test_nobody_else_may_read_the_files(path: Path, open_store: OpenStore) -> None:
    store = await open_store()
    await store.append(to("a/1", 0))

    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    assert modes == {"store.db": 0o600, "store.db-wal": 0o600, "store.db-shm": 0o600}


async def test_a_commit_is_flushed_to_disk(store: EventStore) -> None:
    def pragmas(connection: Connection) -> None:
        for pragma, value in {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}.items():
            assert connection.exec_driver_sql(f"PRAGMA {pragma}").scalar_one() == value

    await store.append(write=pragmas)


async def test_a_full_disk_refuses_everything_until_there_is_room(store: EventStore) -> None:
    def leave_pages(free: int) -> None:
        with store._database.writer.begin() as connection:
            pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
            connection.exec_driver_sql(f"PRAGMA max_page_count = {pages + free}")

    await store.append(to("a/1", 0))
    leave_pages(2)
    sizes = [1, 50_000, 1, 50_000]

    outcomes = await asyncio.gather(
        *(store.append(to(f"b/{n}", 0, size)) for n, size in enumerate(sizes)),
        return_exceptions=True,
    )

    refused = [outcome for outcome in outcomes if isinstance(outcome, StoreUnavailableError)]
    assert len(refused) >= 2
    assert "disk is full" in str(refused[0])
    leave_pages(1000)
    written = await store.append(to("a/1", 1, 50_000))
    assert written[0].position == 2 + len(sizes) - len(refused)
    assert len(await store.read(0)) == written[0].position


async def test_a_database_that_stays_locked_refuses_for_now(
    path: Path, open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engineshed.eventstore.sqlite._BUSY_S", 0.05)
    store = await open_store()
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")

    with pytest.raises(StoreUnavailableError, match="database is locked"):
        await store.append(to("a/1", 0))
    assert await store.last_position() == 0  # reading goes on

    other.execute("ROLLBACK")
    other.close()
    assert len(await store.append(to("a/1", 0))) == 1


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "mysql://host/db"])
async def test_a_database_that_cannot_hold_a_log_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"ENGINESHED_DATABASE_URL: .*sqlite:////absolute/path"):
        await EventStore.open(url, service="test")


async def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no-such-folder"):
        await EventStore.open(f"sqlite:///{tmp_path}/no-such-folder/store.db", service="test")
