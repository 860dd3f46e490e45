"""What is wrong with a checkpoint's files is found before a model is loaded, and named."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from engineshed.agent.engines.checkpoint import hash_files, read_header, read_layout
from engineshed.agent.engines.files import hash_file
from engineshed.agent.engines.interface import EngineBuildError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder that looks like a checkpoint."""
    (tmp_path / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "README.md").write_text("# A model")
    (tmp_path / "training_args.bin").write_bytes(b"pickle")
    save_file({"a": torch.zeros(3, 4), "b": torch.zeros(5)}, tmp_path / "model.safetensors")
    return tmp_path


def refusal(call: Callable[[], object]) -> tuple[str, str]:
    with pytest.raises(EngineBuildError) as caught:
        call()
    assert not caught.value.retryable
    return caught.value.code, caught.value.message


def test_an_engine_takes_configuration_tokenizer_and_weights_and_leaves_the_rest(
    folder: Path,
) -> None:
    layout = read_layout(folder)

    assert layout.files == ("config.json", "model.safetensors", "tokenizer.json")
    assert layout.architecture == "LlamaForCausalLM"
    assert layout.parameter_count == 17


def test_weights_in_several_files_are_those_that_the_index_names(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-1.safetensors")
    save_file({"c": torch.zeros(2)}, folder / "model-2.safetensors")
    save_file({"d": torch.zeros(2)}, folder / "consolidated.safetensors")
    index = {"weight_map": {"a": "model-1.safetensors", "c": "model-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))

    layout = read_layout(folder)

    assert [name for name in layout.files if name.endswith(".safetensors")] == [
        "model-1.safetensors",
        "model-2.safetensors",
    ]
    assert layout.parameter_count == 19

    (folder / "model-2.safetensors").unlink()
    assert refusal(lambda: read_layout(folder)) == (
        "MISSING_WEIGHTS",
        "model.safetensors.index.json names files that are not there: ['model-2.safetensors']",
    )


def test_an_index_cannot_point_out_of_the_folder(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-1.safetensors")
    index = {"weight_map": {"a": "../secret.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))

    assert refusal(lambda: read_layout(folder))[0] == "BAD_WEIGHTS"


def test_weights_cut_short_anywhere_are_refused(folder: Path) -> None:
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    for size in range(len(whole)):
        weights.write_bytes(whole[:size])
        assert refusal(lambda: read_header(weights))[0] in {"TRUNCATED_WEIGHTS", "BAD_WEIGHTS"}

    weights.write_bytes(whole + b"x")
    assert refusal(lambda: read_header(weights))[0] == "BAD_WEIGHTS"


@pytest.mark.parametrize("content", [b"", b"not safetensors at all", b"\xff" * 64])
def test_a_file_of_another_format_is_refused(folder: Path, content: bytes) -> None:
    (folder / "model.safetensors").write_bytes(content)

    assert refusal(lambda: read_layout(folder))[0] in {"TRUNCATED_WEIGHTS", "BAD_WEIGHTS"}


def test_pickles_adapters_and_nothing_are_each_refused_with_the_way_out(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "training_args.bin").unlink()
    assert refusal(lambda: read_layout(folder))[0] == "MISSING_WEIGHTS"

    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    code, message = refusal(lambda: read_layout(folder))
    assert code == "PICKLE_WEIGHTS"
    assert "safetensors" in message

    (folder / "adapter_config.json").write_text("{}")
    code, message = refusal(lambda: read_layout(folder))
    assert code == "ADAPTER_ONLY"
    assert "merge" in message


@pytest.mark.parametrize("content", [None, "{", "[]"])
def test_a_missing_or_broken_configuration_is_refused(folder: Path, content: str | None) -> None:
    (folder / "config.json").unlink()
    if content is not None:
        (folder / "config.json").write_text(content)

    assert refusal(lambda: read_layout(folder))[0] == "NO_CONFIG"


def test_files_that_are_not_those_of_the_manifest_are_refused(folder: Path) -> None:
    lines = [
        {"path": path.name, "size_bytes": path.stat().st_size, "sha256": hash_file(path)}
        for path in folder.iterdir()
    ]
    (folder / "manifest.json").write_text(json.dumps(lines))
    fractions: list[float] = []

    files = hash_files(read_layout(folder), fractions.append)

    assert set(files) == {"config.json", "model.safetensors", "tokenizer.json"}
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0

    (folder / "tokenizer.json").write_text("{ }")
    code, message = refusal(lambda: hash_files(read_layout(folder), fractions.append))
    assert code == "CHECKPOINT_CHANGED"
    assert "tokenizer.json" in message
