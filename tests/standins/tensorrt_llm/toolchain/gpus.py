"""The GPUs of this host, as the variable STAND_IN_GPUS names them (see the stand-in for NVML)."""

import json
import os
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Gpu:
    name: str
    uuid: str
    capability: str
    """Major and minor, `9.0`."""
    memory: int
    """In bytes."""


def visible_gpus() -> list[Gpu]:
    """Return the GPUs that this process may use."""
    gpus = [_gpu(each) for each in json.loads(os.environ.get("STAND_IN_GPUS", "[{}]"))]
    wanted = os.environ.get("CUDA_VISIBLE_DEVICES")
    if wanted is None:
        return gpus
    names = [name.strip() for name in wanted.split(",") if name.strip()]
    return [
        gpu for name in names for index, gpu in enumerate(gpus) if name in (str(index), gpu.uuid)
    ]


def _gpu(described: dict[str, Any]) -> Gpu:
    major, minor = described.get("capability", [9, 0])
    return Gpu(
        name=described.get("name", "NVIDIA H200"),
        uuid=described.get("uuid", "GPU-2bccdd80-a523-6660-7262-f02bd8c3871d"),
        capability=f"{major}.{minor}",
        memory=described.get("total", 150754820096),
    )
