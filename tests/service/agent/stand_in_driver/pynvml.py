"""A stand-in for NVIDIA's driver library, for hosts without one: named, and never the real thing.

It has the names of `pynvml` that the agent uses, and answers as an H200 with driver 580 did. What
it answers with stands in the variable STAND_IN_GPUS: a JSON list of GPUs, each with what differs
from that one, whose links are made up; unset, there is no driver. STAND_IN_DRIVER_FAULT names the
error of its start.
"""

import json
import os
from types import SimpleNamespace
from typing import Any

nvmlMemory_v2 = 33554472  # noqa: N816 - NVIDIA's name
NVML_NVLINK_MAX_LINKS = 18
NVML_FEATURE_DISABLED, NVML_FEATURE_ENABLED = 0, 1

_H200 = {
    "name": "NVIDIA H200",
    "uuid": "GPU-2bccdd80-a523-6660-7262-f02bd8c3871d",
    "total": 150754820096,
    "reserved": 644939776,
    "used": 0,
    "capability": [9, 0],
    "gpu": 0,
    "answers": True,
    "pcie": [5, 16],
    "links": [1] * 18,
}


class NVMLError(Exception):
    """As pynvml's."""


class NVMLError_LibraryNotFound(NVMLError):  # noqa: N801, N818 - NVIDIA's name
    """As pynvml's."""


class NVMLError_DriverNotLoaded(NVMLError):  # noqa: N801, N818 - NVIDIA's name
    """As pynvml's."""


class NVMLError_LibRmVersionMismatch(NVMLError):  # noqa: N801, N818 - NVIDIA's name
    """As pynvml's: the driver was upgraded and the host not started again."""


class NVMLError_GpuIsLost(NVMLError):  # noqa: N801, N818 - NVIDIA's name
    """As pynvml's."""


class NVMLError_NotSupported(NVMLError):  # noqa: N801, N818 - NVIDIA's name
    """As pynvml's: this GPU has no such thing."""


def nvmlInit() -> None:
    if fault := os.environ.get("STAND_IN_DRIVER_FAULT"):
        raise globals()[fault](fault)
    if "STAND_IN_GPUS" not in os.environ:
        raise NVMLError_LibraryNotFound("NVML Shared Library Not Found")


def nvmlSystemGetDriverVersion() -> str:
    return "580.159.04"


def nvmlDeviceGetCount() -> int:
    return len(_gpus())


def nvmlDeviceGetHandleByIndex(index: int) -> dict[str, Any]:
    return _gpus()[index]


def nvmlDeviceGetHandleByUUID(uuid: str) -> dict[str, Any]:
    (found,) = (gpu for gpu in _gpus() if gpu["uuid"] == uuid)
    if not found["answers"]:
        raise NVMLError_GpuIsLost("GPU is lost")
    return found


def nvmlDeviceGetName(handle: dict[str, Any]) -> str:
    return str(handle["name"])


def nvmlDeviceGetUUID(handle: dict[str, Any]) -> str:
    return str(handle["uuid"])


def nvmlDeviceGetMemoryInfo(handle: dict[str, Any], version: int) -> SimpleNamespace:
    assert version == nvmlMemory_v2, "the first version counts what is reserved as used"
    return SimpleNamespace(total=handle["total"], reserved=handle["reserved"], used=handle["used"])


def nvmlDeviceGetCudaComputeCapability(handle: dict[str, Any]) -> tuple[int, int]:
    major, minor = handle["capability"]
    return major, minor


def nvmlDeviceGetUtilizationRates(handle: dict[str, Any]) -> SimpleNamespace:
    return SimpleNamespace(gpu=handle["gpu"], memory=0)


def nvmlDeviceGetMaxPcieLinkGeneration(handle: dict[str, Any]) -> int:
    if not handle["pcie"]:
        raise NVMLError_NotSupported("Not Supported")
    return int(handle["pcie"][0])


def nvmlDeviceGetCurrPcieLinkWidth(handle: dict[str, Any]) -> int:
    return int(handle["pcie"][1])


def nvmlDeviceGetNvLinkState(handle: dict[str, Any], link: int) -> int:
    if link >= len(handle["links"]):
        raise NVMLError_NotSupported("Not Supported")
    return int(handle["links"][link])


def _gpus() -> list[dict[str, Any]]:
    return [_H200 | each for each in json.loads(os.environ["STAND_IN_GPUS"])]
