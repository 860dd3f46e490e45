"""Triton, TensorRT-LLM and PyTorch: where they are, and which, without importing them here."""

import os
import shutil
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

from engineshed.agent.doctor.looking import ask
from engineshed.agent.domain.doctor.facts import Toolchain, Torch, Triton
from engineshed.triton.installation import find_triton

TORCH_SECONDS: Final = 100.0
"""Its import takes seconds, and on a busy host with a cold disk a minute."""
_METADATA_SECONDS: Final = 10.0  # below what a look may take, so that the process is ended

_IMAGE_APP: Final = Path("/app")
"""Where NVIDIA's image keeps the scripts and templates of TensorRT-LLM."""
_ASK_VERSIONS: Final = """
import importlib.metadata as metadata, json
def version(name):
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""
print(json.dumps({name: version(name) for name in ("tensorrt_llm", "tensorrt")}))
"""
_ASK_TORCH: Final = """
import json, torch
there = torch.cuda.is_available()
print(json.dumps({
    "version": torch.__version__,
    "cuda": torch.version.cuda or "",
    "devices": torch.cuda.device_count() if there else 0,
}))
"""


def look_at_triton() -> Triton:
    """Return the Triton that replicas would run, and which of its back ends are there.

    Raises:
        TritonNotFoundError: there is none that could run.

    """
    found = find_triton()
    compiled = found.backends / "tensorrtllm"
    numbered = found.server.parent.parent / "TRITON_VERSION"  # NVIDIA's images have it
    return Triton(
        server=str(found.server),
        executable=os.access(found.server, os.X_OK),
        version=numbered.read_text().strip() if numbered.is_file() else found.version,
        python=_if_there(found.backends / "python" / "libtriton_python.so"),
        tensorrtllm=_if_there(compiled / "libtriton_tensorrtllm.so"),
        worker=_if_there(compiled / "trtllmExecutorWorker"),
    )


def look_at_toolchain(app: Path = _IMAGE_APP) -> Toolchain:
    """Return what there is to build TensorRT-LLM engines with; its scripts are below `app`."""
    command = shutil.which("trtllm-build") or ""
    interpreter = _interpreter_of(Path(command)) if command else sys.executable
    versions = ask([interpreter, "-c", _ASK_VERSIONS], _METADATA_SECONDS)
    examples = _examples(app)
    scripts = examples.glob("models/*/*/convert_checkpoint.py")
    batcher = app / "all_models" / "inflight_batcher_llm" / "tensorrt_llm" / "config.pbtxt"
    return Toolchain(
        command=command,
        tensorrt_llm=versions["tensorrt_llm"],
        tensorrt=versions["tensorrt"] or os.environ.get("TRT_VERSION", ""),
        examples=_if_there(examples),
        families=tuple(sorted(script.parent.name for script in scripts)),
        quantize=_if_there(examples / "quantization" / "quantize.py"),
        template=_if_there(batcher),
        llmapi=_if_there(app / "all_models" / "llmapi" / "tensorrt_llm"),
    )


def look_at_torch() -> Torch:
    """Return what PyTorch says of itself, in a process of its own.

    Raises:
        PackageNotFoundError: it is not installed.
        ProcessFailedError: it cannot be imported, or not in time.

    """
    version("torch")
    return Torch(**ask([sys.executable, "-c", _ASK_TORCH], TORCH_SECONDS), transformers=_version())


def _examples(app: Path) -> Path:
    """Return the folder of the conversion scripts, which has moved between the images."""
    moved = app / "tensorrt_llm" / "examples"
    return moved if moved.is_dir() else app / "examples"


def _interpreter_of(command: Path) -> str:
    """Return the Python that a command runs in: its packages are those that count."""
    with command.open("rb") as file:
        line = file.readline(1024).decode(errors="replace")
    words = line.removeprefix("#!").split() if line.startswith("#!") else []
    if words and Path(words[0]).name == "env":
        words = words[1:]
    named = shutil.which(words[0]) if words and "python" in Path(words[0]).name else None
    return named or sys.executable


def _version() -> str:
    try:
        return version("transformers")
    except PackageNotFoundError:
        return ""


def _if_there(path: Path) -> str:
    return str(path) if path.exists() else ""
