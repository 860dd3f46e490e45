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


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that engines are compiled from."""
    return write_checkpoint("llama", tmp_path_factory.mktemp("llama"), dtype=torch.bfloat16)


@pytest.fixture(scope="module")
def calibration(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts to calibrate with."""
    folder = tmp_path_factory.mktemp("calibration")
    (folder / "train.jsonl").write_text('{"text": "w3 w4"}\n\n{"text": "w5"}\n')
    (folder / "notes.json").write_text("no texts")
    return folder


@pytest.fixture
def destination(tmp_path: Path) -> Path:
    """Where an engine is to be built."""
    folder = tmp_path / "engine"
    folder.mkdir()
    return folder
