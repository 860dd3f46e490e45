"""Triton, TensorRT-LLM and PyTorch: where they are, and which, without importing them here."""

import os
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

from engineshed.agent.asking import ask
from engineshed.agent.domain.doctor.facts import Toolchain, Torch, Triton
from engineshed.agent.engines.tensorrt_llm.toolchain import APP, find_toolchain
from engineshed.triton.installation import find_triton

TORCH_SECONDS: Final = 100.0
"""Its import takes seconds, and on a busy host with a cold disk a minute."""
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


def look_at_toolchain(app: Path = APP) -> Toolchain:
    """Return what there is to build TensorRT-LLM engines with; its scripts are below `app`."""
    found = find_toolchain(app)
    return Toolchain(
        command=_told(found.build),
        tensorrt_llm=found.tensorrt_llm,
        tensorrt=found.tensorrt,
        examples=_told(found.examples),
        families=tuple(sorted(found.scripts)),
        quantize=_told(found.quantize),
        template=_told(found.template),
        llmapi=_told(found.llmapi),
        mpirun=_told(found.mpirun),
    )


def look_at_torch() -> Torch:
    """Return what PyTorch says of itself, in a process of its own.

    Raises:
        PackageNotFoundError: it is not installed.
        ProcessFailedError: it cannot be imported, or not in time.

    """
    version("torch")
    return Torch(**ask([sys.executable, "-c", _ASK_TORCH], TORCH_SECONDS), transformers=_version())


def _version() -> str:
    try:
        return version("transformers")
    except PackageNotFoundError:
        return ""


def _if_there(path: Path) -> str:
    return str(path) if path.exists() else ""


def _told(path: Path | None) -> str:
    return "" if path is None else str(path)
