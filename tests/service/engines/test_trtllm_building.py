"""Engines come of the whole line of NVIDIA's programs.

The programs are a stand-in's: they take the documented arguments and write the documented files.
"""

import asyncio
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from tests.standins.tensorrt_llm import H100 as H100_OF_NVML
from tests.standins.tensorrt_llm import StandInImage, make_image

from engineshed.agent.engines.interface import (
    EngineBuildError,
    Hardware,
    Runtime,
)
from engineshed.agent.engines.tensorrt_llm.backend import TensorRtLlmBackend
from engineshed.agent.engines.tensorrt_llm.marks import Marks
from engineshed.triton.engine import MODEL_NAME, EngineManifest

from .checkpoints import END_ID, MAX_CONTEXT, VOCABULARY, write_checkpoint
from .trtllm import B200, H100, build, in_image, log_of, request_for, said

SECRET = "ENGINESHED_SERVICE_TOKEN_FILE"


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandInImage]:
    with in_image(tmp_path_factory.mktemp("image")) as made, pytest.MonkeyPatch.context() as patch:
        patch.setenv(SECRET, "/secret")
        yield made


@pytest.fixture(autouse=True)
def orders(image: StandInImage) -> Iterator[None]:
    """No order outlives its test."""
    yield
    (image.folder / "orders.json").unlink(missing_ok=True)


@pytest.fixture
def backend(image: StandInImage, calibration: Path) -> TensorRtLlmBackend:
    return TensorRtLlmBackend(H100, image.app, calibration, stall_seconds=60)


def files_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*.*")}


def engine_config(engine: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((engine / "engine" / "config.json").read_text())
    return config


def rendered(backend: TensorRtLlmBackend, engine: Path, repository: Path) -> str:
    backend.render(engine, repository, Runtime((3,), 0.5))
    return (repository / MODEL_NAME / "config.pbtxt").read_text()


async def test_what_comes_out_is_whole_and_says_what_it_is(
    backend: TensorRtLlmBackend, llama: Path, destination: Path
) -> None:
    told: list[str] = []
    request = request_for(llama, max_concurrent=16, max_context=128)
    manifest = await backend.build(
        request,
        destination,
        lambda stage, fraction: told.append(stage) if fraction == 0 else None,
        log_of(destination),
    )

    assert list(dict.fromkeys(told)) == [
        *("verifying", "placing", "converting", "building", "checking", "guiding", "sealing")
    ]
    assert manifest == EngineManifest.read(destination)
    assert manifest.is_whole
    assert (manifest.backend, manifest.engine_kind, manifest.interface) == (
        *("tensorrt_llm", "tensorrt", "tokens"),
    )
    assert (manifest.max_context, manifest.max_concurrent, manifest.max_batch_tokens) == (
        *(128, 16, 128 * 16),
    )
    assert (manifest.vocab_size, manifest.eos_token_ids) == (VOCABULARY, (END_ID,))
    assert (manifest.dtype, manifest.quantization, manifest.world_size) == ("bfloat16", None, 1)
    assert manifest.guided_decoding
    assert manifest.kv_token_bytes == 2 * 2 * 2 * 16 * 2  # keys, values: layers, heads, size, bytes
    assert manifest.versions["tensorrt_llm"] == "1.2.1"
    files = files_in(destination)
    assert files == {*manifest.files, "engine.json"}
    assert "tokenizer/tokenizer.json" in files
    assert not any(name.endswith(".safetensors") for name in files)


async def test_the_log_has_the_commands_and_the_environment_no_secret(
    backend: TensorRtLlmBackend, image: StandInImage, llama: Path, destination: Path
) -> None:
    image.order("build", text="here", hang=True)
    log = log_of(destination)
    building = asyncio.create_task(build(backend, request_for(llama), destination))
    await said(log, "here")
    (process,) = [
        each
        for each in psutil.Process().children(recursive=True)
        if "trtllm-build" in " ".join(each.cmdline())
    ]
    environment = process.environ()
    building.cancel()
    await asyncio.gather(building, return_exceptions=True)

    assert SECRET not in environment
    assert "PYTHONPATH" not in environment
    assert environment["PATH"].startswith(str(image.bin))
    assert environment["CUDA_VISIBLE_DEVICES"] == "GPU-stand-in-0"
    assert environment["HF_HUB_OFFLINE"] == environment["HF_DATASETS_OFFLINE"] == "1"
    assert f"--- building: CUDA_VISIBLE_DEVICES=GPU-stand-in-0 {image.bin}" in log.read_text()


@pytest.mark.parametrize(
    ("quantization", "hardware", "algorithm", "cache"),
    [
        ("int8_wo", H100, "W8A16", None),
        ("fp8", H100, "FP8", "FP8"),
        ("int8_sq", H100, "W8A8_SQ_PER_CHANNEL", None),
        ("int4_awq", H100, "W4A16_AWQ", None),
        ("w4a8_awq", H100, "W4A8_AWQ", "FP8"),
        ("nvfp4", B200, "NVFP4", "FP8"),
    ],
)
async def test_each_quantization_is_what_was_asked_for(
    backend: TensorRtLlmBackend,
    llama: Path,
    destination: Path,
    monkeypatch: pytest.MonkeyPatch,
    quantization: str,
    hardware: Hardware,
    algorithm: str,
    cache: str | None,
) -> None:
    gpu = {**H100_OF_NVML, "capability": list(map(int, hardware.architecture.split(".")))}
    monkeypatch.setenv("STAND_IN_GPUS", json.dumps([{"uuid": "GPU-stand-in-0", **gpu}]))
    request = request_for(llama, quantization=quantization, hardware=hardware)

    manifest = await build(backend, request, destination)

    assert manifest.quantization == quantization
    built = engine_config(destination)["pretrained_config"]["quantization"]
    assert (built["quant_algo"], built["kv_cache_quant_algo"]) == (algorithm, cache)


@pytest.mark.parametrize("kind", ["qwen2", "gemma2", "gpt2"])
async def test_several_gpus_and_each_familys_own_script(
    backend: TensorRtLlmBackend, tmp_path: Path, destination: Path, kind: str
) -> None:
    checkpoint = write_checkpoint(kind, tmp_path / "checkpoint", dtype=torch.bfloat16)
    two = replace(H100, count=2)
    request = request_for(checkpoint, hardware=two, gpus=("GPU-stand-in-0", "GPU-stand-in-1"))

    manifest = await build(backend, request, destination)

    assert manifest.world_size == 2
    assert {"engine/rank0.engine", "engine/rank1.engine"} <= manifest.files.keys()
    assert '"gpu_device_ids" value: { string_value: "0,1"' in rendered(
        backend, destination, tmp_path / "repository"
    )


async def test_what_is_rendered_serves_the_engine_with_the_endpoints_share_of_memory(
    backend: TensorRtLlmBackend, llama: Path, destination: Path, tmp_path: Path
) -> None:
    await build(backend, request_for(llama), destination)

    text = rendered(backend, destination, tmp_path / "repository")
    assert f'"gpt_model_path" value: {{ string_value: "{destination}/engine"' in text
    assert '"kv_cache_free_gpu_mem_fraction" value: { string_value: "0.5"' in text


@pytest.mark.parametrize("removed", [False, True])
async def test_without_a_tensorrt_class_the_llm_api_serves_and_it_is_said(
    image: StandInImage,
    llama: Path,
    destination: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    removed: bool,
) -> None:
    checkpoint = llama
    if removed:
        monkeypatch.delenv("ENGINESHED_TRITON_DIR")  # a stand-in is made of the real one
        monkeypatch.setenv("PATH", os.environ["PATH"].partition(os.pathsep)[2])
        image = make_image(tmp_path / "image", removed=True)
        for name, value in image.environment(nvml=False).items():
            monkeypatch.setenv(name, value)
    else:
        checkpoint = shutil.copytree(llama, tmp_path / "checkpoint")
        config = json.loads((checkpoint / "config.json").read_text())
        config["architectures"] = ["GptOssForCausalLM"]
        (checkpoint / "config.json").write_text(json.dumps(config))
    backend = TensorRtLlmBackend(H100, image.app)
    request = request_for(checkpoint, max_batch_tokens=2048)
    assert backend.probe().available
    assert backend.declines(request) == ""

    manifest = await build(backend, request, destination)

    assert (manifest.engine_kind, manifest.interface) == ("pytorch", "text")
    assert manifest.files["checkpoint/model.safetensors"].size > 0
    assert (destination / "checkpoint" / "model.safetensors").samefile(
        checkpoint / "model.safetensors"
    )
    assert "decoupled: true" in rendered(backend, destination, tmp_path / "repository")
    yaml = json.loads((tmp_path / "repository/tensorrt_llm/1/model.yaml").read_text())
    assert yaml["model"] == str(destination / "checkpoint")
    assert (yaml["max_seq_len"], yaml["max_num_tokens"]) == (MAX_CONTEXT, 2048)
    quantized = replace(request, quantization="int8_wo")
    with pytest.raises(EngineBuildError, match="serves a checkpoint as it is"):
        backend.recipe(quantized)


def test_lines_of_the_log_tell_how_far_a_build_is(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("[TRT-LLM] [I] Build TensorRT engine Unnamed Network 0\n")
    marks = Marks(log)
    assert marks.seen() == 0  # that was before

    with log.open("a") as file:
        file.write("[I] Total optimization profiles added: 1\n[I] Build TensorRT eng")
    assert marks.seen() == 1
    with log.open("a") as file:
        file.write("ine Unnamed Network 0\n[I] something else\n")
    assert marks.seen() == 2
