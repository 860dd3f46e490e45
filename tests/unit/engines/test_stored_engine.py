"""What an entry of the shared store may say: files below the engine's folder, and nothing else."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engineshed.agent.engines.store import StoredEngine, reason_to_refuse
from engineshed.triton.engine import EngineFile

FILE = EngineFile(1, "0" * 64)
ROOT = Path("/engines/key.building")


def entry(*paths: str, digest: str = "a" * 64, size: int = 1) -> StoredEngine:
    files = {"engine.json": FILE, **dict.fromkeys(paths, EngineFile(size, "0" * 64))}
    return StoredEngine(1, digest, files)


@pytest.mark.parametrize("path", ["words", "checkpoint/model.safetensors", "a..b", "..a", "-rf"])
def test_files_at_any_depth_are_taken(path: str) -> None:
    assert reason_to_refuse(entry(path)) == ""


@pytest.mark.parametrize(
    "path",
    ["../words", "a/../../words", "/etc/passwd", "..", ".", "", "a//b", "./a", "a/", "a\0b"],
)
def test_a_path_that_could_lead_elsewhere_is_refused(path: str) -> None:
    assert repr(path) in reason_to_refuse(entry(path))


@pytest.mark.parametrize("digest", ["", "a" * 63, "../" + "a" * 61, "A" * 64])
def test_the_folder_is_a_digest(digest: str) -> None:
    assert "digest" in reason_to_refuse(entry(digest=digest))


def test_a_file_smaller_than_nothing_is_refused() -> None:
    assert reason_to_refuse(entry("words", size=-1))


def test_an_engine_without_a_manifest_is_refused() -> None:
    assert "engine.json" in reason_to_refuse(StoredEngine(1, "a" * 64, {"words": FILE}))


@given(st.lists(st.sampled_from(["..", ".", "", "/", "a", "b\\", "~", "\n"]), max_size=5))
def test_what_is_not_refused_stays_below_the_folder(parts: list[str]) -> None:
    path = "/".join(parts)
    if not reason_to_refuse(entry(path)):
        target = (ROOT / path).resolve()
        assert target != ROOT
        assert target.is_relative_to(ROOT)
