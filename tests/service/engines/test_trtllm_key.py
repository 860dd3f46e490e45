"""What decides what TensorRT-LLM builds changes an engine's name, and nothing else does."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.standins.tensorrt_llm import StandInImage, make_image

from engineshed.agent.engines.cache import cache_key
from engineshed.agent.engines.interface import BuildRequest, Checkpoint
from engineshed.agent.engines.tensorrt_llm.backend import TensorRtLlmBackend

from .checkpoints import MAX_CONTEXT, write_checkpoint
from .trtllm import GIB, H100, in_image


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandInImage]:
    with in_image(tmp_path_factory.mktemp("image")) as made:
        yield made


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint("llama", tmp_path_factory.mktemp("llama"), dtype=torch.bfloat16)


@pytest.fixture(scope="module")
def request_(checkpoint: Path) -> BuildRequest:
    return BuildRequest(Checkpoint(checkpoint, "sha256:11"), H100)


def texts(folder: Path, text: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "train.jsonl").write_text(f'{{"text": "{text}"}}\n')
    return folder


@pytest.fixture(scope="module")
def backend(image: StandInImage, tmp_path_factory: pytest.TempPathFactory) -> TensorRtLlmBackend:
    calibration = texts(tmp_path_factory.mktemp("calibration"), "one")
    return TensorRtLlmBackend(H100, image.app, calibration)


@pytest.mark.parametrize(
    "change",
    [
        {"checkpoint": "sha256:12"},
        {"hardware": replace(H100, product="NVIDIA H200")},
        {"hardware": replace(H100, architecture="10.0")},
        {"hardware": replace(H100, driver="600")},
        {"hardware": replace(H100, memory_bytes=94 * GIB)},
        {"hardware": replace(H100, count=2)},
        {"max_context": 128},
        {"precision": "float16"},
        {"quantization": "fp8"},
        {"max_concurrent": 32},
        {"max_batch_tokens": 4096},
    ],
    ids=str,
)
def test_every_parameter_of_the_build_changes_it(
    backend: TensorRtLlmBackend, request_: BuildRequest, change: dict[str, Any]
) -> None:
    if digest := change.pop("checkpoint", None):
        change["checkpoint"] = replace(request_.checkpoint, digest=digest)

    assert cache_key(backend, replace(request_, **change)) != cache_key(backend, request_)


@pytest.mark.parametrize(
    "change",
    [
        {"gpus": ("GPU-a",)},
        {"max_context": MAX_CONTEXT},
        {"precision": "bfloat16"},
        {"max_concurrent": 64},
        {"max_batch_tokens": 8192},
        {"hardware": replace(H100, memory_bytes=80 * GIB - (100 << 20))},
    ],
    ids=str,
)
def test_to_say_what_is_meant_anyway_changes_nothing(
    backend: TensorRtLlmBackend, request_: BuildRequest, change: dict[str, Any]
) -> None:
    assert cache_key(backend, replace(request_, **change)) == cache_key(backend, request_)


def test_it_is_the_same_wherever_the_checkpoint_lies(
    backend: TensorRtLlmBackend, request_: BuildRequest, tmp_path: Path
) -> None:
    elsewhere = write_checkpoint("llama", tmp_path, dtype=torch.bfloat16)
    moved = replace(request_, checkpoint=Checkpoint(elsewhere, "sha256:11"))

    assert cache_key(backend, moved) == cache_key(backend, request_)


@pytest.mark.parametrize(("quantization", "matters"), [("fp8", True), ("int8_wo", False)])
def test_texts_count_where_they_are_used(
    image: StandInImage,
    backend: TensorRtLlmBackend,
    request_: BuildRequest,
    tmp_path: Path,
    quantization: str,
    matters: bool,
) -> None:
    asked = replace(request_, quantization=quantization)
    others = TensorRtLlmBackend(H100, image.app, texts(tmp_path / "others", "two"))
    same = TensorRtLlmBackend(H100, image.app, texts(tmp_path / "same", "one"))

    assert (cache_key(others, asked) != cache_key(backend, asked)) is matters
    assert cache_key(same, asked) == cache_key(backend, asked)


@pytest.mark.parametrize(
    ("version", "tensorrt", "digest"),
    [
        ("1.2.0", "10.14.1.48", ""),
        ("1.2.1", "10.13.3.9", ""),
        ("1.2.1", "10.14.1.48", "sha256:other"),
    ],
)
def test_another_toolchain_changes_it(
    backend: TensorRtLlmBackend,
    request_: BuildRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    version: str,
    tensorrt: str,
    digest: str,
) -> None:
    mine = cache_key(backend, request_)
    monkeypatch.delenv("ENGINESHED_TRITON_DIR")  # a stand-in is made of the real one
    other = make_image(tmp_path / "image", version=version, tensorrt_version=tensorrt)
    for name, value in other.environment(nvml=False).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("ENGINESHED_IMAGE_DIGEST", digest)

    assert cache_key(TensorRtLlmBackend(H100, other.app), request_) != mine


ASKED = st.fixed_dictionaries(
    {
        "max_context": st.sampled_from([None, 64, 128, MAX_CONTEXT]),
        "precision": st.sampled_from([None, "bfloat16", "float16"]),
        "quantization": st.sampled_from([None, "fp8", "int8_wo", "int8_sq", "int4_awq"]),
        "max_concurrent": st.sampled_from([None, 8, 64]),
        "max_batch_tokens": st.sampled_from([None, 64, 8192]),
        "gpus": st.sampled_from([(), ("GPU-a",), ("GPU-b",)]),
    }
)


def meant(asked: dict[str, Any]) -> tuple[object, ...]:
    """Return what somebody gets who asks so, of a checkpoint in bfloat16."""
    context, size = asked["max_context"] or MAX_CONTEXT, asked["max_concurrent"] or 64
    return (
        context,
        asked["precision"] or "bfloat16",
        asked["quantization"],
        size,
        min(asked["max_batch_tokens"] or 8192, context * size),
    )


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(one=ASKED, other=ASKED)
def test_names_are_the_same_exactly_where_the_same_is_meant(
    backend: TensorRtLlmBackend,
    request_: BuildRequest,
    one: dict[str, Any],
    other: dict[str, Any],
) -> None:
    first, second = (cache_key(backend, replace(request_, **asked)) for asked in (one, other))

    assert (first == second) is (meant(one) == meant(other))
