"""Judging safetensors files by their headers, without their data. Pure.

A file is eight bytes with the header's length, the header (JSON: each tensor's type, shape and
place) and the tensors' bytes. A header that was read tells whether the file is whole.
"""

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from engineshed.catalog.domain.errors import CheckpointInvalidError
from engineshed.fit import StoredTensor

PREFIX_BYTES: Final = 8
# The format allows 100 MB. The largest models have headers of a few: parsing more than this would
# hold up the process and fill its memory for nothing.
MAX_HEADER_BYTES: Final = 32 * 2**20

_GIT_LFS: Final = b"version "  # how the text begins that stands for a file not yet fetched
_SUFFIX: Final = ".safetensors"
_METADATA: Final = "__metadata__"
_MAX_DIMENSIONS: Final = 64  # PyTorch's own limit
_MAX_NUMBER: Final = 2**63 - 1  # of a dimension and of an offset
_LONGEST_DTYPE: Final = 32  # characters

# Bits of an element, and the name that config.json and PyTorch use.
_TYPES: Final[Mapping[str, tuple[int, str]]] = {
    "F4": (4, "float4_e2m1fn_x2"),
    "F6_E2M3": (6, "float6_e2m3fn"),
    "F6_E3M2": (6, "float6_e3m2fn"),
    "BOOL": (8, "bool"),
    "U8": (8, "uint8"),
    "I8": (8, "int8"),
    "F8_E4M3": (8, "float8_e4m3fn"),
    "F8_E5M2": (8, "float8_e5m2"),
    "F8_E8M0": (8, "float8_e8m0fnu"),
    "I16": (16, "int16"),
    "U16": (16, "uint16"),
    "F16": (16, "float16"),
    "BF16": (16, "bfloat16"),
    "I32": (32, "int32"),
    "U32": (32, "uint32"),
    "F32": (32, "float32"),
    "I64": (64, "int64"),
    "U64": (64, "uint64"),
    "F64": (64, "float64"),
    "C64": (64, "complex64"),
}


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of a file."""

    dtype: str
    elements: int
    begin: int  # its first byte, from the end of the header
    end: int


@dataclass(frozen=True, slots=True)
class WeightFile:
    """A file of weights that is whole."""

    path: str
    tensors: Mapping[str, Tensor]


def header_length(path: str, size: int, prefix: bytes) -> int:
    """Return the length of the header, from the file's size and its first eight bytes.

    Raises:
        CheckpointInvalidError: the file is too short for what it says.

    """
    if len(prefix) < PREFIX_BYTES:
        raise _truncated(path, expected=PREFIX_BYTES, there=size)
    if prefix == _GIT_LFS:
        raise _broken(path, "this is a pointer of Git LFS, not the file; fetch it: git lfs pull")
    length = int.from_bytes(prefix, "little")
    if length > MAX_HEADER_BYTES:
        raise _broken(path, f"its header would be {length} bytes long; is it safetensors at all?")
    if PREFIX_BYTES + length > size:
        raise _truncated(path, expected=PREFIX_BYTES + length, there=size)
    return length


def read_header(path: str, size: int, header: bytes) -> WeightFile:
    """Return what a file holds, from its size and its header.

    Raises:
        CheckpointInvalidError: the header is broken, or the file's size is not what it says.

    """
    try:
        parsed = json.loads(header)
    except (ValueError, RecursionError) as error:
        raise _broken(path, f"its header is not JSON ({error})") from error
    if not isinstance(parsed, dict):
        raise _broken(path, "its header is not a JSON object")
    tensors = {
        name: _tensor(path, name, entry) for name, entry in parsed.items() if name != _METADATA
    }
    expected = PREFIX_BYTES + len(header) + _data_bytes(path, tensors)
    if size < expected:
        raise _truncated(path, expected=expected, there=size)
    if size > expected:
        raise _broken(path, f"{expected} bytes were expected, {size} are there")
    return WeightFile(path, tensors)


def read_index(path: str, text: bytes) -> Mapping[str, frozenset[str]]:
    """Return the files that model.safetensors.index.json names, each with its tensors' names.

    Raises:
        CheckpointInvalidError: it is not such an index, or names files elsewhere.

    """
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _broken(path, f"it is not JSON ({error})") from error
    places = parsed.get("weight_map") if isinstance(parsed, dict) else None
    if not isinstance(places, dict) or not places:
        raise _broken(path, "it has no weight_map, which says which file each tensor is in")
    files: dict[str, set[str]] = {}
    for tensor, file in places.items():
        if not isinstance(file, str) or not _is_inside(file):
            raise _broken(path, f"weight_map: {tensor!r} is in {file!r}, which is no file in here")
        if not file.endswith(_SUFFIX):
            raise _broken(path, f"weight_map: {tensor!r} is in {file!r}, which is not *{_SUFFIX}")
        files.setdefault(file, set()).add(tensor)
    return {file: frozenset(tensors) for file, tensors in files.items()}


def require_indexed(
    index_path: str, index: Mapping[str, frozenset[str]], files: Iterable[WeightFile]
) -> None:
    """Raise CheckpointInvalidError unless every file has the tensors that the index says."""
    for file in files:
        missing = index[file.path] - file.tensors.keys()
        if missing:
            raise _broken(
                file.path, f"{index_path} says that {min(missing)!r} is in it, but it is not"
            )


def parameter_count(files: Iterable[WeightFile]) -> int:
    """Return how many numbers the files hold."""
    return sum(tensor.elements for file in files for tensor in file.tensors.values())


def stored(files: Iterable[WeightFile]) -> Iterator[StoredTensor]:
    """Yield all tensors of the files, as an estimate of memory wants them."""
    for file in files:
        for name, tensor in file.tensors.items():
            yield StoredTensor(name, tensor.elements, tensor.end - tensor.begin)


def commonest_dtype(files: Iterable[WeightFile]) -> str:
    """Return the type that most of the numbers have; "" when there are none."""
    elements = Counter[str]()
    for file in files:
        for tensor in file.tensors.values():
            elements[tensor.dtype] += tensor.elements
    if not elements:
        return ""
    (dtype, _), *_ = elements.most_common(1)
    return _TYPES[dtype][1] if dtype in _TYPES else dtype.lower()


def _tensor(path: str, name: str, entry: Any) -> Tensor:  # noqa: ANN401 - JSON of anybody
    match entry:
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [begin, end]} if (
            _is_name(dtype)
            and len(shape) <= _MAX_DIMENSIONS
            and all(
                type(number) is int and 0 <= number <= _MAX_NUMBER
                for number in (*shape, begin, end)
            )
        ):
            tensor = Tensor(dtype, math.prod(shape), begin, end)
        case _:
            raise _broken(path, f"its header says nothing usable about {name!r}")
    there = end - begin
    if dtype in _TYPES:
        needed = (tensor.elements * _TYPES[dtype][0] + 7) // 8
        if there != needed:
            raise _broken(path, f"{name!r} has {there} bytes; {dtype} {shape} needs {needed}")
    elif tensor.elements > 8 * there:  # a type newer than this list; no number is below one bit
        raise _broken(path, f"{name!r} has {there} bytes for the shape {shape}")
    return tensor


def _data_bytes(path: str, tensors: Mapping[str, Tensor]) -> int:
    """Return where the last tensor ends; there is neither a hole nor an overlap before it."""
    reached = 0
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)):
        if tensor.begin != reached or tensor.end < tensor.begin:
            raise _broken(path, f"{name!r} begins at byte {tensor.begin}, not at {reached}")
        reached = tensor.end
    return reached


def _is_name(dtype: str) -> bool:
    return dtype.isascii() and dtype.isidentifier() and len(dtype) <= _LONGEST_DTYPE


def _is_inside(path: str) -> bool:
    return path.isprintable() and not any(part in ("", ".", "..") for part in path.split("/"))


def _truncated(path: str, *, expected: int, there: int) -> CheckpointInvalidError:
    return CheckpointInvalidError.of(
        f"{path} is truncated: {expected} bytes were expected, {there} are there; copy it again",
        file=path,
        expected_bytes=expected,
        found_bytes=there,
    )


def _broken(path: str, what: str) -> CheckpointInvalidError:
    return CheckpointInvalidError.of(f"{path}: {what}", file=path)
