"""Engines come of the whole line of NVIDIA's programs, and so does every failure, told as it is.

The programs are a stand-in's: they take the documented arguments, write the documented files, and
fail as they are ordered to.
"""

import asyncio
import json
import os
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from tests.standins.tensorrt_llm import H100, TEXTS, StandInImage, make_image

from engineshed.agent.engines.interface import (
    BuildRequest,
    Checkpoint,
    EngineBuildError,
    Hardware,
    Runtime,
)
from engineshed.agent.engines.tensorrt_llm.backend import TensorRtLlmBackend
from engineshed.agent.engines.tensorrt_llm.child import Step, run_step
from engineshed.triton.engine import MODEL_NAME, EngineManifest

from .checkpoints import END_ID, MAX_CONTEXT, VOCABULARY, write_checkpoint

GIB = 2**30
HARDWARE = Hardware("NVIDIA H100 80GB HBM3", 1, 80 * GIB, "9.0", "590")
B200 = replace(HARDWARE, product="NVIDIA B200", architecture="10.0", memory_bytes=180 * GIB)
SECRET = "ENGINESHED_SERVICE_TOKEN_FILE"


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandInImage]:
    made = make_image(tmp_path_factory.mktemp("image"))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in made.environment(nvml=False).items():
            patch.setenv(name, value)
        patch.setenv(SECRET, "/secret")
        yield made


@pytest.fixture(autouse=True)
def orders(image: StandInImage) -> Iterator[None]:
    """No order outlives its test."""
    yield
    (image.folder / "orders.json").unlink(missing_ok=True)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint("llama", tmp_path_factory.mktemp("llama"), dtype=torch.bfloat16)


@pytest.fixture(scope="module")
def calibration(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("calibration")
    (folder / "train.jsonl").write_text('{"text": "w3 w4"}\n\n{"text": "w5"}\n')
    (folder / "notes.json").write_text("no texts")
    return folder


@pytest.fixture
def backend(image: StandInImage, calibration: Path) -> TensorRtLlmBackend:
    return TensorRtLlmBackend(HARDWARE, image.app, calibration, stall_seconds=60)


@pytest.fixture
def destination(tmp_path: Path) -> Path:
    folder = tmp_path / "engine"
    folder.mkdir()
    return folder


def request_for(checkpoint: Path, **changes: Any) -> BuildRequest:
    request = BuildRequest(Checkpoint(checkpoint, "sha256:11"), HARDWARE, gpus=("GPU-stand-in-0",))
    return replace(request, **changes)


def unheard(_stage: str, _fraction: float) -> None:
    pass


async def build(
    backend: TensorRtLlmBackend, request: BuildRequest, destination: Path
) -> EngineManifest:
    return await backend.build(request, destination, unheard, log_of(destination))


async def failure(
    backend: TensorRtLlmBackend, request: BuildRequest, destination: Path
) -> EngineBuildError:
    with pytest.raises(EngineBuildError) as caught:
        await build(backend, request, destination)
    assert running_in(destination) == []
    return caught.value


def log_of(destination: Path) -> Path:
    return destination.with_suffix(".log")


def running_in(folder: Path) -> list[str]:
    """Return what runs in a folder of an engine that is built: every step does."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.cwd().startswith(str(folder)):
                found.append(" ".join(process.cmdline()))
        except psutil.Error:
            continue
    return found


async def said(log: Path, text: str) -> None:
    """Return once a build has said something."""
    async with asyncio.timeout(60):
        while text not in read(log):
            await asyncio.sleep(0.02)


def read(log: Path) -> str:
    return log.read_text() if log.is_file() else ""


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
        ("int8_wo", HARDWARE, "W8A16", None),
        ("fp8", HARDWARE, "FP8", "FP8"),
        ("int8_sq", HARDWARE, "W8A8_SQ_PER_CHANNEL", None),
        ("int4_awq", HARDWARE, "W4A16_AWQ", None),
        ("w4a8_awq", HARDWARE, "W4A8_AWQ", "FP8"),
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
    gpu = {**H100, "capability": list(map(int, hardware.architecture.split(".")))}
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
    two = replace(HARDWARE, count=2)
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
    backend = TensorRtLlmBackend(HARDWARE, image.app)
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


@pytest.mark.parametrize(
    ("step", "order", "code", "retryable", "cause"),
    [
        (
            "convert",
            {
                "text": "Traceback (most recent call last):\n  File x\nKeyError: 'lm_head'",
                "exit": 1,
            },
            "CONVERT_FAILED",
            True,
            "KeyError: 'lm_head'",
        ),
        ("convert", {"oom": True}, "BUILD_OOM_HOST", True, "most likely"),
        ("convert", {"crash": "SIGSEGV"}, "BUILD_CRASHED", True, "SIGSEGV"),
        ("quantize", {"gpu_oom": True}, "BUILD_OOM_GPU", True, "cudaMallocAsync"),
        (
            "quantize",
            {"text": TEXTS["network"], "exit": 1},
            "NO_CALIBRATION_DATA",
            False,
            "Couldn't reach",
        ),
        ("build", {"text": TEXTS["no_formats"], "exit": 1}, "BUILD_OOM_GPU", True, "PLUGIN_V2"),
        ("build", {"text": TEXTS["unsupported_sm"], "exit": 1}, "UNSUPPORTED_SM", False, "sm_120"),
        (
            "build",
            {"text": TEXTS["tensorrt_engine_missing"], "exit": 1},
            "TRT_PATH_REMOVED",
            True,
            "_tensorrt_engine",
        ),
        ("build", {"text": TEXTS["mpi_abort"], "exit": 1}, "MPI_ABORT", True, ""),
        ("build", {"oom": True}, "BUILD_OOM_HOST", True, "SIGKILL"),
        ("build", {"exit": 3}, "BUILD_FAILED", True, ""),
        ("build", {"truncate": "missing"}, "ENGINE_INCOMPLETE", True, "rank0.engine"),
        ("build", {"truncate": "empty"}, "ENGINE_INCOMPLETE", True, "rank0.engine"),
        (
            "build",
            {"limits": {"max_seq_len": 99}},
            "LIMITS_DIFFER",
            False,
            "max_seq_len is 99, not 256",
        ),
    ],
    ids=str,
)
async def test_what_goes_wrong_is_told_by_its_first_cause(
    backend: TensorRtLlmBackend,
    image: StandInImage,
    llama: Path,
    destination: Path,
    step: str,
    order: dict[str, Any],
    code: str,
    retryable: bool,
    cause: str,
) -> None:
    image.order(step, **order)
    quantization = "fp8" if step == "quantize" else None

    error = await failure(backend, request_for(llama, quantization=quantization), destination)

    assert (error.code, error.retryable) == (code, retryable)
    assert cause in error.message
    if "exit" in order:
        assert "TensorRT-LLM version: 1.2.1" in "\n".join(error.evidence)


@pytest.mark.parametrize(("order", "stall"), [({"hang": True}, 2.0), ({"spin": True}, 1.5)])
async def test_what_stands_still_is_ended_with_all_that_it_started(
    image: StandInImage, llama: Path, destination: Path, order: dict[str, Any], stall: float
) -> None:
    image.order("build", child=True, **order)
    backend = TensorRtLlmBackend(HARDWARE, image.app, stall_seconds=stall)

    error = await failure(backend, request_for(llama), destination)

    assert (error.code, error.retryable) == ("BUILD_STALLED", True)


async def test_a_cancelled_build_leaves_nothing_running(
    backend: TensorRtLlmBackend, image: StandInImage, llama: Path, destination: Path
) -> None:
    image.order("build", child=True, text="here", hang=True)
    building = asyncio.create_task(build(backend, request_for(llama), destination))
    await said(log_of(destination), "here")
    assert any("sleep infinity" in command for command in running_in(destination))

    building.cancel()
    with pytest.raises(asyncio.CancelledError):
        await building

    assert running_in(destination) == []


@asynccontextmanager
async def running_step(folder: Path, script: str) -> AsyncIterator[asyncio.Task[None]]:
    """Run a shell script as a step."""
    environment = {"PATH": os.environ["PATH"]}
    step = Step("working", "build", ("bash", "-c", script), environment, folder, folder)
    task = asyncio.create_task(run_step(step, folder / "log", 60, lambda _: None))
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_what_has_left_the_session_is_ended_too(tmp_path: Path) -> None:
    script = "setsid bash -c 'echo away; sleep infinity' & wait"
    async with running_step(tmp_path, script):
        await said(tmp_path / "log", "\naway")

    assert running_in(tmp_path) == []


async def test_what_a_step_leaves_behind_when_it_ends_is_ended(tmp_path: Path) -> None:
    async with running_step(tmp_path, "sleep infinity & echo done") as task:
        await task

    assert running_in(tmp_path) == []


async def test_without_a_description_of_the_tokenizer_only_guiding_is_lost(
    backend: TensorRtLlmBackend, image: StandInImage, llama: Path, destination: Path
) -> None:
    image.order("tokenizer_info", exit=1)

    manifest = await build(backend, request_for(llama), destination)

    assert not manifest.guided_decoding
    assert "no guided decoding" in log_of(destination).read_text()


async def test_a_checkpoint_that_was_changed_is_refused(
    backend: TensorRtLlmBackend, llama: Path, destination: Path, tmp_path: Path
) -> None:
    checkpoint = shutil.copytree(llama, tmp_path / "checkpoint")
    (checkpoint / "manifest.json").write_text('[{"path": "config.json", "sha256": "00"}]')

    error = await failure(backend, request_for(checkpoint), destination)

    assert error.code == "CHECKPOINT_CHANGED"


async def test_a_checkpoint_without_a_tokenizer_is_refused(
    backend: TensorRtLlmBackend, destination: Path, tmp_path: Path
) -> None:
    checkpoint = write_checkpoint("llama", tmp_path / "checkpoint", tokenizer=False)

    error = await failure(backend, request_for(checkpoint), destination)

    assert (error.code, error.retryable) == ("NO_TOKENIZER", False)


@pytest.mark.parametrize("line", ["no JSON", '{"content": "w3"}', '{"text": 3}'])
def test_texts_that_are_none_are_named_by_their_line(
    image: StandInImage, llama: Path, tmp_path: Path, line: str
) -> None:
    (tmp_path / "train.jsonl").write_text(f'{{"text": "w3"}}\n{line}\n')
    backend = TensorRtLlmBackend(HARDWARE, image.app, tmp_path)

    with pytest.raises(EngineBuildError, match="line 2 of") as caught:
        backend.recipe(request_for(llama, quantization="fp8"))

    assert caught.value.code == "NO_CALIBRATION_DATA"


def test_a_model_that_is_too_large_is_told_with_the_numbers(
    backend: TensorRtLlmBackend, llama: Path
) -> None:
    small = replace(HARDWARE, memory_bytes=1 * GIB)

    fit = backend.fits(request_for(llama, hardware=small))

    assert not fit.fits
    assert fit.needed_bytes > fit.available_bytes == 1 * GIB
    assert "it has 1.0 GiB" in fit.reason
    assert backend.fits(request_for(llama)).fits


@pytest.mark.parametrize(
    ("hardware", "architecture", "reason"),
    [
        (Hardware(), "LlamaForCausalLM", "GPUs of NVIDIA"),
        (replace(HARDWARE, product="Tesla T4", architecture="7.5"), "LlamaForCausalLM", "Tesla T4"),
        (HARDWARE, "NobodysForCausalLM", "no class for NobodysForCausalLM"),
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


@pytest.mark.parametrize(
    ("hardware", "reason"),
    [
        (Hardware(), "needs GPUs"),
        (replace(HARDWARE, product="Tesla T4", architecture="7.5"), "Tesla T4"),
        (HARDWARE, "trtllm-build"),
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

    probe = TensorRtLlmBackend(HARDWARE, image.app).probe()

    assert probe.available
    assert probe.versions is not None
    assert probe.versions["tensorrt_llm"] == "1.2.1"
    assert probe.versions["tensorrt"] == "10.14.1.48"
    assert probe.versions["image"] == "sha256:77"
