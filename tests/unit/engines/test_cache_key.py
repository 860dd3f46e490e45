"""The cache key: everything that decides what a build yields, and nothing else."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engineshed.agent.engines.cache import cache_key
from engineshed.agent.engines.interface import BuildRequest, Checkpoint, Hardware
from engineshed.agent.engines.torch.backend import TorchBackend

REQUEST = BuildRequest(
    Checkpoint(Path("/here"), "sha256:11"),
    Hardware("NVIDIA H200", 1, 141 << 30, "9.0", "570"),
    max_context=4096,
    precision="bfloat16",
)
KEY = cache_key(TorchBackend(), REQUEST)


class OtherVersion(TorchBackend):
    """The same with a newer PyTorch."""

    def fingerprint(self) -> dict[str, str]:
        return {**super().fingerprint(), "torch": "99"}


def test_it_is_the_same_wherever_the_checkpoint_lies() -> None:
    moved = replace(REQUEST, checkpoint=Checkpoint(Path("/elsewhere"), "sha256:11"))

    assert cache_key(TorchBackend(), moved) == KEY
    assert len(KEY) == 64


def test_it_is_the_same_whichever_gpu_builds() -> None:
    assert cache_key(TorchBackend(), replace(REQUEST, gpus=("GPU-a",))) == KEY


@pytest.mark.parametrize(
    "change",
    [
        {"checkpoint": Checkpoint(Path("/here"), "sha256:12")},
        {"hardware": replace(REQUEST.hardware, product="NVIDIA H100")},
        {"hardware": replace(REQUEST.hardware, architecture="10.0")},
        {"hardware": replace(REQUEST.hardware, driver="580")},
        {"hardware": replace(REQUEST.hardware, memory_bytes=80 << 30)},
        {"max_context": None},
        {"precision": None},
        {"max_concurrent": 64},
        {"max_batch_tokens": 512},
    ],
    ids=str,
)
def test_every_parameter_of_the_build_changes_it(change: dict[str, Any]) -> None:
    assert cache_key(TorchBackend(), replace(REQUEST, **change)) != KEY


def test_it_is_the_same_whatever_the_driver_keeps_of_the_memory_for_itself() -> None:
    less = replace(REQUEST.hardware, memory_bytes=(141 << 30) - (300 << 20))

    assert cache_key(TorchBackend(), replace(REQUEST, hardware=less)) == KEY


def test_on_a_cpu_it_is_the_same_in_a_container_of_any_size() -> None:
    small, large = (
        replace(REQUEST, hardware=Hardware("cpu", 1, size << 30, "x86_64")) for size in (4, 64)
    )

    assert cache_key(TorchBackend(), small) == cache_key(TorchBackend(), large)


def test_to_say_what_is_meant_anyway_changes_nothing() -> None:
    assert cache_key(TorchBackend(), replace(REQUEST, max_concurrent=32)) == KEY


def test_another_version_of_the_back_end_changes_it() -> None:
    assert cache_key(OtherVersion(), REQUEST) != KEY
