"""What tests of the tensorrt_llm back end share: hardware, requests, builds, being in an image."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import psutil
import pytest
from tests.standins.tensorrt_llm import StandInImage, make_image

from engineshed.agent.engines.interface import (
    BuildRequest,
    Checkpoint,
    EngineBuildError,
    Hardware,
)
from engineshed.agent.engines.tensorrt_llm.backend import TensorRtLlmBackend
from engineshed.triton.engine import EngineManifest

GIB: Final = 2**30
H100: Final = Hardware("NVIDIA H100 80GB HBM3", 1, 80 * GIB, "9.0", "590")
B200: Final = replace(H100, product="NVIDIA B200", architecture="10.0", memory_bytes=180 * GIB)


@contextmanager
def in_image(folder: Path) -> Iterator[StandInImage]:
    """Make an image, and be in it."""
    image = make_image(folder)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in image.environment(nvml=False).items():
            patch.setenv(name, value)
        yield image


def request_for(checkpoint: Path, **changes: Any) -> BuildRequest:
    request = BuildRequest(Checkpoint(checkpoint, "sha256:11"), H100, gpus=("GPU-stand-in-0",))
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
