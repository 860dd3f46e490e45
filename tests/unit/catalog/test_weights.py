"""Whether files of weights are whole, by their headers."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engineshed.catalog import weights
from engineshed.catalog.domain.errors import CheckpointInvalidError
from engineshed.catalog.weights import WeightFile

BITS = {"F32": 32, "BF16": 16, "I8": 8, "F8_E4M3": 8}


def read(content: bytes, name: str = "model.safetensors") -> WeightFile:
    """Judge a file's content as a registration does."""
    length = weights.header_length(name, len(content), content[:8])
    return weights.read_header(name, len(content), content[8 : 8 + length])


def safetensors(header: object, data: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def tensor(begin: int, end: int, shape: list[int], dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


TWO = {
    "__metadata__": {"format": "pt"},
    "a": tensor(0, 24, [2, 3]),
    "b": tensor(24, 44, [10], "BF16"),
}


def test_a_whole_file_tells_its_tensors() -> None:
    file = read(safetensors(TWO, bytes(44)))

    assert set(file.tensors) == {"a", "b"}
    assert weights.parameter_count([file]) == 16
    assert weights.commonest_dtype([file]) == "bfloat16"


@given(
    st.lists(
        st.tuples(st.sampled_from(sorted(BITS)), st.lists(st.integers(0, 5), max_size=3)),
        max_size=5,
    ),
    st.data(),
)
def test_a_file_that_was_cut_off_anywhere_is_refused(
    tensors: list[tuple[str, list[int]]], data: st.DataObject
) -> None:
    header: dict[str, object] = {}
    reached = 0
    for number, (dtype, shape) in enumerate(tensors):
        size = BITS[dtype] // 8
        for dimension in shape:
            size *= dimension
        header[str(number)] = tensor(reached, reached + size, shape, dtype)
        reached += size
    whole = safetensors(header, bytes(reached))
    read(whole)
    cut = data.draw(st.integers(0, len(whole) - 1))

    with pytest.raises(CheckpointInvalidError, match="is truncated") as refused:
        read(whole[:cut])

    assert refused.value.facts["found_bytes"] == str(cut)


def test_a_truncated_file_tells_name_and_both_sizes() -> None:
    content = safetensors(TWO, bytes(44))

    with pytest.raises(CheckpointInvalidError) as refused:
        read(content[:-4], "model-00001-of-00002.safetensors")

    assert f"{len(content)} bytes were expected, {len(content) - 4} are there" in str(refused.value)
    assert "model-00001-of-00002.safetensors" in str(refused.value)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"\xff" * 100, "safetensors at all"),
        (b"version https://git-lfs.github.com/spec/v1", "git lfs pull"),
        ((5).to_bytes(8, "little") + b"{{{{{", "not JSON"),
        (safetensors([1]), "not a JSON object"),
        (safetensors({"a": tensor(0, 24, [2, 3])}, bytes(25)), "97 bytes were expected, 98"),
        (safetensors({"a": tensor(4, 28, [2, 3])}, bytes(28)), "begins at byte 4"),
        (safetensors({"a": tensor(0, 20, [2, 3])}, bytes(20)), "needs 24"),
        (
            safetensors({"a": tensor(0, 24, [6]), "b": tensor(20, 24, [1])}, bytes(24)),
            "begins at byte 20",
        ),
        (safetensors({"a": {"dtype": "F32"}}), "nothing usable"),
        (safetensors({"a": tensor(0, 24, [-2, -3])}, bytes(24)), "nothing usable"),
        (safetensors({"a": tensor(0, 4, [2**60], "NEW")}, bytes(4)), "for the shape"),
        (safetensors({"a": tensor(0, 4, [2**63])}, bytes(4)), "nothing usable"),
        (safetensors({"a": tensor(0, 4, [10**4299] * 2)}, bytes(4)), "nothing usable"),
        (safetensors({"a": tensor(0, 2**63, [1])}, bytes(4)), "nothing usable"),
        (safetensors({"a": tensor(0, 4, [1] * 65)}, bytes(4)), "nothing usable"),
        (safetensors({"a": tensor(0, 4, [1], "\ud800")}, bytes(4)), "nothing usable"),
        (safetensors({"a": tensor(0, 4, [1], "X" * 33)}, bytes(4)), "nothing usable"),
        (safetensors({"\ud800": tensor(0, 4, [7])}, bytes(4)), "needs 28"),
    ],
)
def test_a_broken_file_is_refused(content: bytes, told: str) -> None:
    with pytest.raises(CheckpointInvalidError, match=told) as refused:
        read(content)

    refused.value.message.encode()


def test_a_type_that_is_newer_than_this_code_is_left_to_engines() -> None:
    file = read(safetensors({"a": tensor(0, 3, [4], "F6_NEW")}, bytes(3)))

    assert weights.commonest_dtype([file]) == "f6_new"


def test_an_index_names_the_files_and_their_tensors() -> None:
    text = json.dumps({"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}).encode()

    assert weights.read_index("i", text) == {
        "1.safetensors": frozenset({"a"}),
        "2.safetensors": frozenset({"b"}),
    }


@pytest.mark.parametrize(
    "index",
    [
        [],
        {},
        {"weight_map": {}},
        {"weight_map": {"a": 1}},
        {"weight_map": {"a": "../secret.safetensors"}},
        {"weight_map": {"a": "/etc/passwd"}},
        {"weight_map": {"a": "x/../../y"}},
        {"weight_map": {"a": "x\0y"}},
        {"weight_map": {"a": "\ud800"}},
        {"weight_map": {"a": "pytorch_model.bin"}},
        {"weight_map": {"a": "manifest.json"}},
    ],
)
def test_an_index_that_leads_nowhere_or_elsewhere_is_refused(index: object) -> None:
    with pytest.raises(CheckpointInvalidError) as refused:
        weights.read_index("model.safetensors.index.json", json.dumps(index).encode())

    refused.value.message.encode()


def test_a_tensor_that_the_index_promises_must_be_there() -> None:
    file = read(safetensors(TWO, bytes(44)), "1.safetensors")
    index = {"1.safetensors": frozenset({"a", "c"})}

    with pytest.raises(CheckpointInvalidError, match="'c'"):
        weights.require_indexed("model.safetensors.index.json", index, [file])
