"""Looking at a directory before it is registered: its layout, and the headers of its weights."""

from collections.abc import Mapping
from dataclasses import dataclass
from io import FileIO
from typing import Any, Final

import structlog

from engineshed.catalog import layout, weights
from engineshed.catalog.domain.checkpoint import Contents, SourceFile
from engineshed.catalog.domain.errors import CheckpointInvalidError
from engineshed.catalog.source import Source, Stamp, stamp_of
from engineshed.fit import shape_of

_MAX_CONFIG_BYTES: Final = 10 * 2**20  # of JSON that is read here
_MAX_INDEX_BYTES: Final = 64 * 2**20  # of the JSON that says which tensor is in which file
_MAX_SIDE_BYTES: Final = 200 * 2**20  # of tokenizers and all else beside the weights
_PARSED_TOKENIZER_BYTES: Final = 16 * 2**20  # larger ones would hold up the process

log: Final[structlog.stdlib.BoundLogger] = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Inspection:
    """What was found."""

    contents: Contents
    modified_ns: Mapping[str, int]  # of each file, by its path


def inspect(source: Source) -> Inspection:
    """Return what is in a directory that can be served. Reads files, so not for the event loop.

    Raises:
        CheckpointInvalidError: what is wrong with which file.
        UriNotAllowedError: a file leads out of where the caller may read.

    """
    present = {*source.names(), *source.names(layout.CHAT_TEMPLATES)}
    config_text = _read(source, layout.CONFIG, _MAX_CONFIG_BYTES)
    config = layout.read_config(config_text)
    chosen = layout.choose_weights(present, config)
    files, stamps = _weights(source, chosen)
    parameters = weights.parameter_count(files)
    if parameters == 0:
        raise CheckpointInvalidError.of(f"{chosen}: there are no weights in it", file=chosen)

    side = layout.side_files(present)
    tokenizer_config: Mapping[str, Any] = {}
    for name in side:
        stamps[name] = _check_side_file(source, name)
        if name == layout.TOKENIZER_CONFIG:
            tokenizer_config = layout.read_object(name, _read(source, name, _MAX_CONFIG_BYTES))
    layout.require_tokenizer(present, tokenizer_config)

    left_out = sorted(present - stamps.keys())
    if left_out:
        log.info("checkpoint files left out", directory=str(source.directory), files=left_out[:50])
    contents = Contents(
        files=tuple(SourceFile(path, stamp.size_bytes) for path, stamp in sorted(stamps.items())),
        architecture=config.architecture,
        parameter_count=parameters,
        dtype=weights.commonest_dtype(files),
        max_position_embeddings=config.max_position_embeddings,
        base_model=_base_model(source, side),
        has_chat_template=layout.has_chat_template(present, tokenizer_config),
        shape=shape_of(
            layout.read_object(layout.CONFIG, config_text),
            weights.stored(files),
            config.max_position_embeddings,
        ),
    )
    return Inspection(contents, {path: stamp.modified_ns for path, stamp in stamps.items()})


def _weights(source: Source, chosen: str) -> tuple[list[weights.WeightFile], dict[str, Stamp]]:
    """Return the files of weights, and the stamps of all files that make them up."""
    if not layout.is_index(chosen):
        file, stamp = _weight_file(source, chosen)
        return [file], {chosen: stamp}
    index = weights.read_index(chosen, _read(source, chosen, _MAX_INDEX_BYTES))
    read = [_weight_file(source, name) for name in sorted(index)]
    files = [file for file, _ in read]
    weights.require_indexed(chosen, index, files)
    with source.open(chosen) as file_of_index:
        stamps = {chosen: stamp_of(file_of_index)}
    return files, stamps | {file.path: stamp for file, stamp in read}


def _weight_file(source: Source, name: str) -> tuple[weights.WeightFile, Stamp]:
    with source.open(name) as file:
        stamp = stamp_of(file)
        prefix = _read_exactly(file, weights.PREFIX_BYTES)
        length = weights.header_length(name, stamp.size_bytes, prefix)
        header = _read_exactly(file, length)
    return weights.read_header(name, stamp.size_bytes, header), stamp


def _check_side_file(source: Source, name: str) -> Stamp:
    """Return the stamp of a file that is copied beside the weights, once it looks whole."""
    with source.open(name) as file:
        stamp = stamp_of(file)
        _require_size(name, stamp.size_bytes, _MAX_SIDE_BYTES)
        if name == layout.TOKENIZER and stamp.size_bytes > _PARSED_TOKENIZER_BYTES:
            _require_ends(name, file, stamp.size_bytes)
        elif name == layout.TOKENIZER or name in layout.READ_BY_ENGINES:
            layout.read_object(name, _read_exactly(file, stamp.size_bytes))
    return stamp


def _require_ends(name: str, file: FileIO, size: int) -> None:
    """Raise CheckpointInvalidError unless a long JSON object begins and ends as one."""
    begin = _read_exactly(file, 256).lstrip()
    file.seek(size - 256)
    if not begin.startswith(b"{") or not _read_exactly(file, 256).rstrip().endswith(b"}"):
        raise CheckpointInvalidError.of(f"{name}: it is cut off; copy it again", file=name)


def _base_model(source: Source, side: list[str]) -> str:
    if layout.README not in side:
        return ""
    with source.open(layout.README) as file:
        head = _read_exactly(file, 64 * 1024)
    return layout.base_model(head.decode(errors="replace"))


def _read(source: Source, name: str, limit: int) -> bytes:
    with source.open(name) as file:
        size = stamp_of(file).size_bytes
        _require_size(name, size, limit)
        return _read_exactly(file, size)


def _require_size(name: str, size: int, limit: int) -> None:
    if size > limit:
        raise CheckpointInvalidError.of(
            f"{name} has {size} bytes, more than {limit}; such a file cannot be what its name says",
            file=name,
        )


def _read_exactly(file: FileIO, count: int) -> bytes:
    """Return the next `count` bytes; fewer when the file ends before."""
    chunks: list[bytes] = []
    while count > 0 and (chunk := file.read(count)):
        chunks.append(chunk)
        count -= len(chunk)
    return b"".join(chunks)
