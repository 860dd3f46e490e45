"""Checkpoints are written once, engines built once, for all tests here."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from .checkpoints import byte_tokenizer, write_checkpoint
from .engines import build_here

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function that gives the folder of the tiny checkpoint of an architecture.

    After its name may stand `:bytes`: then its tokens stand for bytes, as those of real models do.
    """
    written: dict[str, Path] = {}

    def give(kind: str) -> Path:
        if kind not in written:
            architecture, _, tokens = kind.partition(":")
            folder = tmp_path_factory.mktemp(architecture)
            written[kind] = write_checkpoint(architecture, folder, tokenizer=not tokens)
            if tokens:
                byte_tokenizer().save_pretrained(folder)
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
            built[kind] = build_here(checkpoint(kind), tmp_path_factory.mktemp("engine"))
        return built[kind]

    return give
