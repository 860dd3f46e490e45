"""What GPUs are used for at the moment, as NVIDIA's driver tells (NVML). Calls block."""

from dataclasses import dataclass
from typing import Final

import pynvml
import structlog

log: Final[structlog.stdlib.BoundLogger] = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Usage:
    """What one GPU is used for at the moment, by whomever."""

    memory_bytes: int
    """In use."""
    usable_bytes: int
    """What programs may use: what the driver keeps for itself is taken off."""
    utilization: float
    """Of the last sample's time (under a second), the share in which it computed, 0 to 1."""


def open_driver() -> bool:
    """Load the driver, as must be done before GPUs are looked at; return whether there is one."""
    try:
        pynvml.nvmlInit()
    except (pynvml.NVMLError_LibraryNotFound, pynvml.NVMLError_DriverNotLoaded):
        return False
    except pynvml.NVMLError as error:
        log.warning("gpu_driver_not_answering", error=str(error))
        return False
    return True


def usage_of(uuid: str) -> Usage | None:
    """Return how the GPU `GPU-…` is used; None: it does not say, or fell off the bus."""
    try:
        handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle, version=pynvml.nvmlMemory_v2)
        rates = pynvml.nvmlDeviceGetUtilizationRates(handle)
    except pynvml.NVMLError as error:
        log.warning("gpu_not_answering", gpu=uuid, error=str(error))
        return None
    return Usage(memory.used, memory.total - memory.reserved, rates.gpu / 100)
