"""What can be told of a checkpoint without loading it: layout, headers of weights, hashes.

Everything wrong with the files is found here, before a model is loaded, and named.
"""

import json
import math
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from engineshed.agent.engines.files import hash_file
from engineshed.agent.engines.interface import EngineBuildError
from engineshed.fit import shape_of
from engineshed.triton.engine import EngineFile

MANIFEST_NAME: Final = "manifest.json"
"""The platform's list of a checkpoint's files; it is no part of the checkpoint."""

_SINGLE: Final = "model.safetensors"
_INDEX: Final = "model.safetensors.index.json"
_PICKLES: Final = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_TEXT_SUFFIXES: Final = {
    ".json",
    ".jinja",
    ".txt",
    ".model",
    ".tiktoken",
    ".spm",
    ".vocab",
    ".bpe",
    ".codes",
}
_TEMPLATES: Final = "additional_chat_templates"
_LENGTH_BYTES: Final = 8
_MAX_HEADER_BYTES: Final = 100_000_000  # the limit of the safetensors format

Tensors = Mapping[str, tuple[str, tuple[int, ...]]]
"""The type (`F32`, `BF16`, …) and the shape of each tensor, by its name."""


@dataclass(frozen=True, slots=True)
class Layout:
    """A checkpoint whose files are all there and not cut short."""

    directory: Path
    config: Mapping[str, Any]
    """config.json."""
    files: tuple[str, ...]
    """What an engine needs of it, by path relative to the directory."""
    tensors: Tensors

    @property
    def architecture(self) -> str:
        """The model class that config.json names first; "" when it names none."""
        named = self.config.get("architectures")
        return str(named[0]) if isinstance(named, list) and named else ""

    @property
    def parameter_count(self) -> int:
        """Counted from the headers of the weights."""
        return sum(math.prod(shape) for _, shape in self.tensors.values())

    @property
    def weights_bytes(self) -> int:
        """The size of the weights as they are stored."""
        return sum(
            (self.directory / name).stat().st_size
            for name in self.files
            if name.endswith(".safetensors")
        )

    @property
    def stated_context(self) -> int:
        """The most tokens that config.json says the model works with; 0: it says nothing."""
        text = self.config.get("text_config")
        config = text if isinstance(text, dict) else self.config
        names = ("max_position_embeddings", "n_positions", "max_seq_len")
        return next((config[name] for name in names if isinstance(config.get(name), int)), 0)

    def token_bytes(self, itemsize: int) -> int:
        """Return the bytes of the keys and values of one token; 0: config.json does not tell.

        transformers keeps those of every head, also of models that could do with less.
        """
        shape = shape_of(self.config, (), 0)
        return 2 * shape.layers * shape.kv_heads * shape.head_dim * itemsize


def read_layout(directory: Path) -> Layout:
    """Look at a checkpoint's folder: names, sizes and headers, no content.

    Raises:
        EngineBuildError: with what is missing or wrong, and in which file.

    """
    config = _read_json_object(directory / "config.json", "NO_CONFIG")
    weights = _weights(directory)
    tensors: dict[str, tuple[str, tuple[int, ...]]] = {}
    for name in weights:
        tensors |= read_header(directory / name)
    texts = [
        path.relative_to(directory).as_posix()
        for path in sorted([*directory.iterdir(), *directory.glob(f"{_TEMPLATES}/*")])
        if path.is_file() and path.suffix in _TEXT_SUFFIXES and path.name != MANIFEST_NAME
    ]
    return Layout(directory, config, tuple(sorted({*texts, *weights})), tensors)


def read_header(path: Path) -> Tensors:
    """Read the header of a safetensors file and check that its data is as long as it says.

    Raises:
        EngineBuildError: TRUNCATED_WEIGHTS or BAD_WEIGHTS.

    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
        if size < _LENGTH_BYTES or length > _MAX_HEADER_BYTES:
            raise _refused("BAD_WEIGHTS", f"{path.name} is no safetensors file")
        if size < _LENGTH_BYTES + length:
            raise _refused("TRUNCATED_WEIGHTS", f"{path.name} ends within its header")
        header = file.read(length)
    try:
        entries: dict[str, dict[str, Any]] = json.loads(header)
        entries.pop("__metadata__", None)
        tensors = {
            name: (str(entry["dtype"]), tuple(int(extent) for extent in entry["shape"]))
            for name, entry in entries.items()
        }
        data = max((int(entry["data_offsets"][1]) for entry in entries.values()), default=0)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise _refused("BAD_WEIGHTS", f"the header of {path.name} cannot be read") from error
    expected = _LENGTH_BYTES + length + data
    if size != expected:
        raise _refused(
            "TRUNCATED_WEIGHTS" if size < expected else "BAD_WEIGHTS",
            f"{path.name} has {size} bytes where its header speaks of {expected}",
        )
    return tensors


def hash_files(layout: Layout, done: Callable[[float], None]) -> dict[str, EngineFile]:
    """Hash what an engine needs and compare it with manifest.json, where there is one.

    As many files at once as there are cores. `done` hears which fraction of the bytes is hashed.

    Raises:
        EngineBuildError: CHECKPOINT_CHANGED, a file is not what was registered.

    """
    registered = _registered(layout.directory / MANIFEST_NAME)
    sizes = {name: (layout.directory / name).stat().st_size for name in layout.files}
    total, hashed = sum(sizes.values()) or 1, 0
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        running = {threads.submit(hash_file, layout.directory / name): name for name in sizes}
        files: dict[str, EngineFile] = {}
        for future in as_completed(running):
            name = running[future]
            files[name] = EngineFile(sizes[name], future.result())
            hashed += sizes[name]
            done(hashed / total)
    for name, file in sorted(files.items()):
        if registered is not None and registered.get(name) != file.sha256:
            raise _refused(
                "CHECKPOINT_CHANGED",
                f"{name} is not what was registered: its sha256 is {file.sha256}, "
                f"the manifest says {registered.get(name, 'nothing of it')}",
            )
    return files


def _weights(directory: Path) -> list[str]:
    if (directory / _SINGLE).is_file():
        return [_SINGLE]
    if (directory / _INDEX).is_file():
        index = _read_json_object(directory / _INDEX, "BAD_WEIGHTS")
        weight_map = index.get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise _refused("BAD_WEIGHTS", f"{_INDEX} has no weight_map")
        shards = sorted({str(name) for name in weight_map.values()})
        if strange := [name for name in shards if Path(name).name != name]:
            raise _refused("BAD_WEIGHTS", f"{_INDEX} names a file in another folder: {strange[0]}")
        if missing := [name for name in shards if not (directory / name).is_file()]:
            raise _refused("MISSING_WEIGHTS", f"{_INDEX} names files that are not there: {missing}")
        return shards
    if (directory / "adapter_config.json").is_file():
        raise _refused(
            "ADAPTER_ONLY",
            "the folder holds a LoRA adapter without its base model; merge it into the base "
            "model's weights (peft: merge_and_unload) and register the result",
        )
    pickles = sorted(path.name for pattern in _PICKLES for path in directory.glob(pattern))
    if pickles:
        raise _refused(
            "PICKLE_WEIGHTS",
            f"the weights are pickle files ({pickles[0]}), which can run code and are never "
            "loaded; save them as safetensors (save_pretrained does) and register the result",
        )
    raise _refused("MISSING_WEIGHTS", f"there is neither {_SINGLE} nor {_INDEX}")


def _registered(manifest: Path) -> dict[str, str] | None:
    """Return the sha256 of each registered file; None where there is no manifest."""
    if not manifest.is_file():
        return None
    try:
        return {
            str(line["path"]): str(line["sha256"]) for line in json.loads(manifest.read_bytes())
        }
    except (ValueError, KeyError, TypeError) as error:
        raise _refused("CHECKPOINT_CHANGED", f"{MANIFEST_NAME} cannot be read") from error


def _read_json_object(path: Path, code: str) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise _refused(code, f"{path.name} is missing") from error
    except ValueError as error:
        raise _refused(code, f"{path.name} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise _refused(code, f"{path.name} is not a JSON object")
    return content


def _refused(code: str, message: str) -> EngineBuildError:
    return EngineBuildError(code, message, retryable=False)
