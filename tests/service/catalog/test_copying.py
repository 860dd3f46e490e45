"""Copying files while the disk fills up."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from engineshed.catalog import copying
from engineshed.catalog.copying import CopyError, Copying, copy_files
from engineshed.catalog.source import Source, Stamp, reach

MEBIBYTE = 2**20
SIZE = 16 * MEBIBYTE


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[list[int]], Copying]:
    """Copy a file; each time that it is asked for, the disk has the next number of bytes free."""
    directory, target = tmp_path / "source", tmp_path / "target"
    for folder in (directory, target):
        folder.mkdir()
    weights = directory / "model.safetensors"
    weights.write_bytes(bytes(SIZE))
    stamps = {weights.name: Stamp(SIZE, weights.stat().st_mtime_ns)}
    source = Source.at(str(directory), reach(anywhere=True, roots=(), never=()))
    monkeypatch.setattr(copying, "_reflink", lambda *_: False)  # it takes no room

    def start(free: list[int]) -> Copying:
        def disk(_: int) -> os.statvfs_result:
            blocks = free.pop(0) if len(free) > 1 else free[0]
            return os.statvfs_result((1, 1, 0, 0, blocks, 0, 0, 0, 0, 255))

        monkeypatch.setattr(os, "fstatvfs", disk)
        progress = Copying(SIZE)
        copy_files(source, stamps, target, progress)
        return progress

    return start


def test_what_fits_is_copied(copy: Callable[[list[int]], Copying]) -> None:
    assert copy([SIZE + 64 * MEBIBYTE]).done_bytes == SIZE


@pytest.mark.parametrize(
    "free",
    [[SIZE + 64 * MEBIBYTE - 1], [SIZE + 64 * MEBIBYTE, 64 * MEBIBYTE]],
    ids=["at first", "while it is copied"],
)
def test_a_copy_ends_before_it_takes_the_room_of_the_stores(
    copy: Callable[[list[int]], Copying], free: list[int]
) -> None:
    with pytest.raises(CopyError, match=r"model\.safetensors: No space left .* stay free"):
        copy(free)
