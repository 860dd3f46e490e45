"""Building engines: what comes out, what is refused and how, and that it can be stopped."""

import asyncio
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file

from engineshed.agent.engines.checkpoint import read_layout
from engineshed.agent.engines.interface import (
    BuildRequest,
    Checkpoint,
    EngineBuildError,
    Hardware,
)
from engineshed.agent.engines.torch.backend import TorchBackend
from engineshed.triton.engine import EngineManifest

from .checkpoints import MAX_CONTEXT, VOCABULARY, write_checkpoint
from .engines import DEADLINE, build_here

BACKEND = TorchBackend(threads=1)


@pytest.fixture
def copied(tmp_path: Path, checkpoint: Callable[[str], Path]) -> Path:
    """A checkpoint to spoil."""
    return shutil.copytree(checkpoint("llama"), tmp_path / "copied")


def request_for(checkpoint: Path, **changes: Any) -> BuildRequest:
    request = BuildRequest(Checkpoint(checkpoint, "sha256:11"), precision="float32")
    return replace(request, **changes)


def refusal(checkpoint: Path, tmp_path: Path, **changes: Any) -> EngineBuildError:
    """Return why no engine comes of a checkpoint, for good."""
    with pytest.raises(EngineBuildError) as caught:
        build_here(checkpoint, tmp_path / "refused", **changes)
    assert not caught.value.retryable
    return caught.value


def change_config(checkpoint: Path, **changes: Any) -> None:
    path = checkpoint / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


async def test_a_build_in_a_process_of_its_own_says_how_far_it_is_and_what_came_out(
    tmp_path: Path, checkpoint: Callable[[str], Path]
) -> None:
    stages: list[str] = []
    destination = tmp_path / "engine"
    destination.mkdir()
    log = tmp_path / "build.log"

    manifest = await BACKEND.build(
        request_for(checkpoint("llama"), max_context=128, max_concurrent=5, max_batch_tokens=64),
        destination,
        lambda stage, _fraction: stages.append(stage),
        log,
    )

    assert list(dict.fromkeys(stages)) == ["verifying", "copying", "loading", "checking"]
    assert log.exists()
    assert manifest == EngineManifest.read(destination)
    assert manifest.is_whole
    assert manifest.checkpoint_digest == "sha256:11"
    assert manifest.architecture == "LlamaForCausalLM"
    assert (manifest.max_context, manifest.max_concurrent) == (128, 5)
    assert manifest.max_batch_tokens == 64
    assert manifest.kv_token_bytes == 2 * 2 * 2 * 16 * 4  # layers, heads, size, bytes
    assert not manifest.guided_decoding
    assert "can't determine decoder type" in log.read_text()  # llguidance, of its tokenizer
    assert (manifest.dtype, manifest.vocab_size) == ("float32", VOCABULARY)
    assert manifest.decoding == "continuous"
    assert manifest.versions == BACKEND.fingerprint()
    placed = {path.relative_to(destination).as_posix() for path in destination.rglob("*.*")}
    assert placed == {*manifest.files, "engine.json"}


async def test_what_the_process_refuses_reaches_whoever_asked(tmp_path: Path, copied: Path) -> None:
    change_config(copied, model_type="unheard_of", architectures=["UnheardOfForCausalLM"])

    with pytest.raises(EngineBuildError, match="'unheard_of'") as caught:
        await BACKEND.build(request_for(copied), tmp_path, lambda *_: None, tmp_path / "log")

    assert caught.value.code == "UNKNOWN_ARCHITECTURE"
    assert not caught.value.retryable


def test_a_checkpoint_that_names_no_end_token_has_none(tmp_path: Path) -> None:
    endless = write_checkpoint("llama", tmp_path / "c", generation={"eos_token_id": None})

    engine = EngineManifest.read(build_here(endless, tmp_path / "engine"))

    assert engine.decoding == "continuous"
    assert engine.eos_token_ids == ()


async def test_a_reason_of_any_length_reaches_whoever_asked(tmp_path: Path, copied: Path) -> None:
    change_config(copied, hidden_size="6" * 200_000)

    with pytest.raises(EngineBuildError, match=r"config\.json cannot be used") as caught:
        await BACKEND.build(request_for(copied), tmp_path, lambda *_: None, tmp_path / "log")

    assert caught.value.code == "BAD_CONFIG"


async def begin(checkpoint: Path, folder: Path) -> tuple[asyncio.Task[Any], psutil.Process]:
    """Return a build under way and its process."""
    started = asyncio.Event()
    log = folder / "build.log"
    building = asyncio.create_task(
        BACKEND.build(request_for(checkpoint), folder, lambda *_: started.set(), log)
    )
    await asyncio.wait_for(started.wait(), DEADLINE)
    [process] = [
        child
        for child in psutil.Process().children(recursive=True)
        # What other tests have started may have ended: a zombie has no command line.
        if child.status() != psutil.STATUS_ZOMBIE and str(folder) in " ".join(child.cmdline())
    ]
    return building, process


async def test_a_build_that_is_cancelled_leaves_no_process(
    tmp_path: Path, checkpoint: Callable[[str], Path]
) -> None:
    building, process = await begin(checkpoint("llama"), tmp_path)
    building.cancel()

    with pytest.raises(asyncio.CancelledError):
        await building

    assert not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


async def test_when_memory_runs_out_a_build_is_killed_before_what_serves(
    tmp_path: Path, checkpoint: Callable[[str], Path]
) -> None:
    building, process = await begin(checkpoint("llama"), tmp_path)
    score = await asyncio.to_thread(Path(f"/proc/{process.pid}/oom_score_adj").read_text)
    process.kill()

    with pytest.raises(EngineBuildError, match="out of memory") as caught:
        await building

    assert int(score) == 1000
    assert caught.value.code == "BUILD_KILLED"
    assert caught.value.retryable


def test_the_checkpoints_own_precision_is_kept_unless_another_is_asked_for(tmp_path: Path) -> None:
    checkpoint = write_checkpoint("llama", tmp_path / "half", dtype=torch.bfloat16)

    own = build_here(checkpoint, tmp_path / "own", precision=None)
    other = build_here(checkpoint, tmp_path / "other", precision="float32")

    assert EngineManifest.read(own).dtype == "bfloat16"
    assert EngineManifest.read(own).decoding == "continuous"
    assert EngineManifest.read(other).dtype == "float32"
    assert EngineManifest.read(own).digest != EngineManifest.read(other).digest


def test_an_engine_is_whole_without_the_checkpoint_it_came_from(
    tmp_path: Path, copied: Path
) -> None:
    engine = build_here(copied, tmp_path / "engine")
    shutil.rmtree(copied)

    assert EngineManifest.read(engine).max_context == MAX_CONTEXT
    assert load_file(engine / "checkpoint" / "model.safetensors")


def test_the_same_build_gives_the_same_digest(
    tmp_path: Path, engine: Callable[[str], Path], checkpoint: Callable[[str], Path]
) -> None:
    again = build_here(checkpoint("llama"), tmp_path / "engine")

    assert EngineManifest.read(again).digest == EngineManifest.read(engine("llama")).digest


def test_unknown_architectures_are_named(tmp_path: Path, copied: Path) -> None:
    change_config(copied, architectures=["UnheardOfForCausalLM"])
    error = refusal(copied, tmp_path)
    assert error.code == "UNKNOWN_ARCHITECTURE"
    assert "UnheardOfForCausalLM" in error.message
    assert "transformers 5" in error.message

    change_config(copied, model_type="custom", auto_map={"AutoModelForCausalLM": "custom.Custom"})
    error = refusal(copied, tmp_path)
    assert error.code == "UNKNOWN_ARCHITECTURE"
    assert "never run" in error.message


@pytest.mark.parametrize(
    ("model_type", "architecture"),
    [("llama", "LlamaForSequenceClassification"), ("t5", "T5ForConditionalGeneration")],
)
def test_what_is_no_causal_language_model_is_refused(
    tmp_path: Path, copied: Path, model_type: str, architecture: str
) -> None:
    change_config(copied, model_type=model_type, architectures=[architecture])

    error = refusal(copied, tmp_path)

    assert error.code == "NOT_A_CAUSAL_LM"
    assert architecture in error.message


@pytest.mark.parametrize("kind", ["llama", "gpt2", "qwen2"])
def test_a_checkpoint_without_tokenizer_is_refused(tmp_path: Path, kind: str) -> None:
    checkpoint = write_checkpoint(kind, tmp_path / "mute", tokenizer=False)

    error = refusal(checkpoint, tmp_path)

    assert error.code == "NO_TOKENIZER"
    assert "tokenizer.json" in error.message


def test_a_tokenizer_that_needs_code_of_its_own_is_refused_and_the_code_never_run(
    tmp_path: Path, copied: Path
) -> None:
    ran = tmp_path / "ran"
    (copied / "own.py").write_text(f"open({str(ran)!r}, 'w')\nclass Own: pass\n")
    settings = {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", None]}}
    (copied / "tokenizer_config.json").write_text(json.dumps(settings))

    error = refusal(copied, tmp_path)

    assert error.code == "NO_TOKENIZER"
    assert error.message == "its tokenizer brings code of its own, which is never run"
    assert not ran.exists()


def test_weights_that_lack_a_tensor_or_have_another_shape_are_refused(
    tmp_path: Path, copied: Path
) -> None:
    weights = copied / "model.safetensors"
    tensors = load_file(weights)
    norm = tensors.pop("model.norm.weight")
    save_file(tensors, weights, {"format": "pt"})
    error = refusal(copied, tmp_path / "1")
    assert error.code == "MISSING_WEIGHTS"
    assert "model.norm.weight" in error.message

    save_file({**tensors, "model.norm.weight": norm[:5].clone()}, weights, {"format": "pt"})
    error = refusal(copied, tmp_path / "2")
    assert error.code == "BAD_WEIGHTS"
    assert "model.norm.weight: its shape is [5], not [64]" in error.message


def test_weights_that_are_no_numbers_are_refused(tmp_path: Path, copied: Path) -> None:
    weights = copied / "model.safetensors"
    tensors = load_file(weights)
    tensors["model.norm.weight"].fill_(float("nan"))
    save_file(tensors, weights, {"format": "pt"})

    error = refusal(copied, tmp_path)

    assert error.code == "MODEL_BROKEN"
    assert "NaN" in error.message


@pytest.mark.parametrize(
    ("asked", "code"),
    [(MAX_CONTEXT + 1, "MAX_CONTEXT_TOO_LARGE"), (3, "MAX_CONTEXT_TOO_SMALL")],
)
def test_a_context_that_the_model_cannot_have_is_refused(
    tmp_path: Path, checkpoint: Callable[[str], Path], asked: int, code: str
) -> None:
    assert refusal(checkpoint("llama"), tmp_path, max_context=asked).code == code


def test_tokens_of_a_batch_cannot_be_limited_where_there_are_no_batches(
    tmp_path: Path, checkpoint: Callable[[str], Path]
) -> None:
    error = refusal(checkpoint("gptj"), tmp_path, max_batch_tokens=64)

    assert error.code == "UNSUPPORTED_BATCH_TOKENS"
    assert "serving.max_batch_tokens" in error.message


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"quantization": "fp8"}, "UNSUPPORTED_QUANTIZATION"),
        ({"precision": "int8"}, "UNSUPPORTED_PRECISION"),
        ({"hardware": Hardware("NVIDIA H200", count=2)}, "UNSUPPORTED_GPU_COUNT"),
        ({"max_batch_tokens": 8, "max_concurrent": 9}, "UNSUPPORTED_BATCH_TOKENS"),
    ],
)
async def test_what_this_back_end_cannot_do_is_refused_at_once(
    tmp_path: Path, checkpoint: Callable[[str], Path], changes: dict[str, Any], code: str
) -> None:
    request = request_for(checkpoint("llama"), **changes)

    with pytest.raises(EngineBuildError) as estimated:
        BACKEND.fits(request)
    with pytest.raises(EngineBuildError) as built:
        await BACKEND.build(request, tmp_path, lambda *_: None, tmp_path / "log")

    assert estimated.value.code == built.value.code == code


def test_a_model_fits_where_there_is_room_for_it(checkpoint: Callable[[str], Path]) -> None:
    request = request_for(checkpoint("llama"))
    unknown = BACKEND.fits(request)
    roomy = BACKEND.fits(replace(request, hardware=Hardware(memory_bytes=unknown.needed_bytes)))
    tight = BACKEND.fits(replace(request, hardware=Hardware(memory_bytes=1 << 20)))

    assert unknown.fits
    assert roomy.fits
    assert not tight.fits
    assert "1 MiB" in tight.reason


def test_a_gpu_needs_room_for_cuda_and_tritons_server_too(
    checkpoint: Callable[[str], Path],
) -> None:
    request = request_for(checkpoint("llama"))
    on_a_gpu = replace(request, hardware=Hardware("NVIDIA H200", memory_bytes=1 << 30))

    assert not BACKEND.fits(on_a_gpu).fits
    assert BACKEND.fits(replace(on_a_gpu, hardware=Hardware(memory_bytes=1 << 30))).fits


@pytest.mark.parametrize("changes", [{"text_config": "none"}, {"architectures": 5}])
def test_an_estimate_bears_with_any_config(copied: Path, changes: dict[str, Any]) -> None:
    change_config(copied, **changes)

    assert BACKEND.fits(request_for(copied)).fits
    assert read_layout(copied).architecture in {"LlamaForCausalLM", ""}


def test_this_host_can_run_it() -> None:
    probe = BACKEND.probe()

    assert probe.available, probe.reason
    assert probe.versions == BACKEND.fingerprint()
