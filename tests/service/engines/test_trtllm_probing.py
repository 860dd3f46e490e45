"""What TensorRT-LLM's back end can serve on a host, and what it leaves to others or refuses."""

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.standins.tensorrt_llm import StandInImage

from engineshed.agent.engines.interface import EngineBuildError, Hardware
from engineshed.agent.engines.tensorrt_llm.backend import TensorRtLlmBackend

from .trtllm import GIB, H100, in_image, request_for


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandInImage]:
    with in_image(tmp_path_factory.mktemp("image")) as made:
        yield made


@pytest.fixture(scope="module")
def backend(image: StandInImage) -> TensorRtLlmBackend:
    return TensorRtLlmBackend(H100, image.app)


@pytest.mark.parametrize("line", ["no JSON", '{"content": "w3"}', '{"text": 3}'])
def test_texts_that_are_none_are_named_by_their_line(
    image: StandInImage, llama: Path, tmp_path: Path, line: str
) -> None:
    (tmp_path / "train.jsonl").write_text(f'{{"text": "w3"}}\n{line}\n')
    backend = TensorRtLlmBackend(H100, image.app, tmp_path)

    with pytest.raises(EngineBuildError, match="line 2 of") as caught:
        backend.recipe(request_for(llama, quantization="fp8"))

    assert caught.value.code == "NO_CALIBRATION_DATA"


def test_a_model_that_is_too_large_is_told_with_the_numbers(
    backend: TensorRtLlmBackend, llama: Path
) -> None:
    small = replace(H100, memory_bytes=1 * GIB)

    fit = backend.fits(request_for(llama, hardware=small))

    assert not fit.fits
    assert fit.needed_bytes > fit.available_bytes == 1 * GIB
    assert "it has 1.0 GiB" in fit.reason
    assert backend.fits(request_for(llama)).fits


@pytest.mark.parametrize(
    ("hardware", "architecture", "reason"),
    [
        (Hardware(), "LlamaForCausalLM", "GPUs of NVIDIA"),
        (replace(H100, product="Tesla T4", architecture="7.5"), "LlamaForCausalLM", "Tesla T4"),
        (H100, "NobodysForCausalLM", "no class for NobodysForCausalLM"),
    ],
)
def test_what_it_has_no_way_to_serve_it_declines(
    backend: TensorRtLlmBackend,
    llama: Path,
    tmp_path: Path,
    hardware: Hardware,
    architecture: str,
    reason: str,
) -> None:
    checkpoint = shutil.copytree(llama, tmp_path / "checkpoint")
    (checkpoint / "config.json").write_text(json.dumps({"architectures": [architecture]}))

    assert reason in backend.declines(request_for(checkpoint, hardware=hardware))


def test_it_declines_neither_what_it_serves_nor_what_is_broken(
    backend: TensorRtLlmBackend, llama: Path, tmp_path: Path
) -> None:
    assert backend.declines(request_for(llama)) == ""
    assert backend.declines(request_for(tmp_path)) == ""


def test_a_toolchain_that_does_not_answer_is_no_reason_to_serve_otherwise(
    image: StandInImage, llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "python3"
    versions = '{"tensorrt_llm": "1.2.1", "tensorrt": "10"}'
    broken.write_text(
        '#!/bin/sh\ncase "$2" in *metadata*) '
        f"echo '{versions}';; *) echo no libcuda >&2; exit 1;; esac\n"
    )
    broken.chmod(0o755)
    (tmp_path / "trtllm-build").write_text(f"#!{broken}\n")
    (tmp_path / "trtllm-build").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)

    with pytest.raises(EngineBuildError, match="no libcuda") as caught:
        TensorRtLlmBackend(H100, image.app).declines(request_for(llama))

    assert (caught.value.code, caught.value.retryable) == ("TOOLCHAIN_MISSING", True)


def test_what_it_has_is_asked_once_for_a_version(
    image: StandInImage, llama: Path, tmp_path: Path
) -> None:
    """Its import takes long; a file remembers the answer beyond the agent."""
    remembered = tmp_path / "tensorrt_llm.json"

    def backend() -> TensorRtLlmBackend:
        return TensorRtLlmBackend(H100, image.app, remembered=remembered)

    assert not backend().declines(request_for(llama))
    told = json.loads(remembered.read_text())
    assert "LlamaForCausalLM" in told["compiled"]

    remembered.write_text(json.dumps(told | {"compiled": [], "interpreted": []}))
    assert "has no class" in backend().declines(request_for(llama)), "it was not asked again"

    of_another = told["of"] | {"tensorrt_llm": "1.2.0"}
    remembered.write_text(json.dumps({"of": of_another, "compiled": [], "interpreted": []}))
    assert not backend().declines(request_for(llama))
    assert json.loads(remembered.read_text()) == told


@pytest.mark.parametrize(
    ("hardware", "reason"),
    [
        (Hardware(), "needs GPUs"),
        (replace(H100, product="Tesla T4", architecture="7.5"), "Tesla T4"),
        (H100, "trtllm-build"),
    ],
)
def test_the_probe_says_what_is_missing_and_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hardware: Hardware, reason: str
) -> None:
    monkeypatch.setenv("PATH", "/usr/bin")
    monkeypatch.delenv("ENGINESHED_TRITON_DIR", raising=False)

    probe = TensorRtLlmBackend(hardware, tmp_path).probe()

    assert not probe.available
    assert reason in probe.reason


def test_the_probe_tells_the_versions(image: StandInImage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENGINESHED_IMAGE_DIGEST", "sha256:77")

    probe = TensorRtLlmBackend(H100, image.app).probe()

    assert probe.available
    assert probe.versions is not None
    assert probe.versions["tensorrt_llm"] == "1.2.1"
    assert probe.versions["tensorrt"] == "10.14.1.48"
    assert probe.versions["image"] == "sha256:77"
