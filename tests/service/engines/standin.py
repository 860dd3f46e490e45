"""Engines of the stand-in for NVIDIA's image, and serving them without the agent's back end."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from string import Template
from typing import Any

from tests.standins.tensorrt_llm import StandInImage

from engineshed.triton.engine import MODEL_NAME
from engineshed.triton.installation import Installation

from .checkpoints import MAX_CONTEXT
from .servers import Server, serve

MAX_BATCH = 32


def run(image: StandInImage, *command: str | Path) -> str:
    """Run a program of the image; return what it printed. It must succeed."""
    done = run_anyway(image, *command)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def run_anyway(
    image: StandInImage, *command: str | Path, **env: str
) -> subprocess.CompletedProcess[str]:
    """Run a program of the image to its end, whatever that is."""
    return subprocess.run(
        list(map(str, command)),
        env=os.environ | image.environment() | env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def convert(
    image: StandInImage, checkpoint: Path, converted: Path, *more: str, family: str = "llama"
) -> Path:
    """Convert a checkpoint."""
    script = image.app / "examples" / "models" / "core" / family / "convert_checkpoint.py"
    folders = ("--model_dir", checkpoint, "--output_dir", converted)
    run(image, image.bin / "python3", script, *folders, *more)
    return converted


def build_arguments(converted: Path, engine: Path) -> tuple[str | Path, ...]:
    """Return the arguments of trtllm-build for a small engine."""
    return (
        *("--checkpoint_dir", converted, "--output_dir", engine),
        *("--max_batch_size", str(MAX_BATCH), "--max_num_tokens", "2048"),
        *("--max_input_len", str(MAX_CONTEXT - 1), "--max_seq_len", str(MAX_CONTEXT)),
        *("--use_paged_context_fmha", "enable"),
    )


def build(image: StandInImage, checkpoint: Path, folder: Path, *more: str) -> Path:
    """Build an engine from a checkpoint; `more` goes to the conversion."""
    converted = convert(image, checkpoint, folder / "converted", *more)
    run(image, image.bin / "trtllm-build", *build_arguments(converted, folder / "engine"))
    return folder / "engine"


def render(image: StandInImage, engine: Path, repository: Path, **more: Any) -> None:
    """Write the model repository that serves an engine, from the template in the image."""
    model = repository / MODEL_NAME
    shutil.rmtree(model, ignore_errors=True)
    source = image.app / "all_models" / "inflight_batcher_llm" / MODEL_NAME
    shutil.copytree(source, model)
    values = {
        "triton_backend": "tensorrtllm",
        "triton_max_batch_size": MAX_BATCH,
        "decoupled_mode": "True",
        "max_queue_delay_microseconds": 0,
        "max_queue_size": 64,
        "encoder_input_features_data_type": "TYPE_FP16",
        "prompt_embedding_table_data_type": "TYPE_FP16",
        "logits_datatype": "TYPE_FP32",
        "engine_dir": engine,
    }
    config = model / "config.pbtxt"
    config.write_text(Template(config.read_text()).safe_substitute(values | more))


@contextmanager
def stand_in_triton(image: StandInImage, folder: Path) -> Iterator[Server]:
    """Start the image's Triton for `repository` in a folder, without loading it."""
    installation = Installation(image.server, image.triton / "backends", version="image")
    with serve(installation, folder, image.environment()) as server:
        yield server
