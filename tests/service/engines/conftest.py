"""Checkpoints are written once, engines built once, for all tests here."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from .checkpoints import write_checkpoint
from .engines import build_here

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function that gives the folder of the tiny checkpoint of an architecture."""
    written: dict[str, Path] = {}

    def give(kind: str) -> Path:
        if kind not in written:
            written[kind] = write_checkpoint(kind, tmp_path_factory.mktemp(kind))
        return written[kind]

    return give


@pytest.fixture(scope="session")
def engine(
    tmp_path_factory: pytest.TempPathFactory, checkpoint: Callable[[str], Path]
) -> Callable[[str], Path]:
    """Return a function that gives the folder of an engine in float32 of an architecture."""
    built: dict[str, Path] = {}

    def give(kind: str) -> Path:
        if kind not in built:
            built[kind] = build_here(checkpoint(kind), tmp_path_factory.mktemp(f"{kind}-engine"))
        return built[kind]

    return give
