"""Builds that fail say so by their first cause, and leave nothing running, however they end.

The programs are a stand-in's: they fail as they are ordered to.
"""

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.standins.tensorrt_llm import TEXTS, StandInImage

from engineshed.agent.engines.tensorrt_llm.backend import TensorRtLlmBackend
from engineshed.agent.engines.tensorrt_llm.child import Step, run_step

from .checkpoints import write_checkpoint
from .trtllm import H100, build, failure, in_image, log_of, request_for, running_in, said


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandInImage]:
    with in_image(tmp_path_factory.mktemp("image")) as made:
        yield made


@pytest.fixture(autouse=True)
def orders(image: StandInImage) -> Iterator[None]:
    """No order outlives its test."""
    yield
    (image.folder / "orders.json").unlink(missing_ok=True)


@pytest.fixture
def backend(image: StandInImage, calibration: Path) -> TensorRtLlmBackend:
    return TensorRtLlmBackend(H100, image.app, calibration, stall_seconds=60)


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
    backend = TensorRtLlmBackend(H100, image.app, stall_seconds=stall)

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
