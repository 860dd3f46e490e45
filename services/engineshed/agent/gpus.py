"""The GPUs of this host, as NVIDIA's driver tells of them (NVML).

A host has none where the driver's library or its kernel module is missing. Any other complaint is
raised: a GPU host must not join a fleet as one without GPUs because its driver is broken.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import pynvml
import structlog

from engineshed.gpus import usage_of

_FORMS: Final = re.compile(r"(sxm|pcie|nvl)\d*")
_MEMORY: Final = re.compile(r"(\d+)gb?")
_LEFT_OUT: Final = re.compile(r"nvidia|tesla|geforce|generation|hbm\d+e?")
_SXM_UNLESS_SAID: Final = frozenset({"h20", "h100", "h200", "h800", "b100", "b200", "b300"})
"""Products whose name says the form only where it is another one."""
_MEMORY_SAID: Final = {("h100", "80gb"): "", ("gh200", "480gb"): "96gb"}
"""What to say of a model's memory instead: nothing of the usual; a GH200 is named by its CPU's."""
_LONGEST_TYPE: Final = 63

log = structlog.get_logger()


class GpusUnreadableError(Exception):
    """There is a driver that does not say what GPUs there are."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU."""

    uuid: str
    """`GPU-…`, the same wherever it is plugged in; CUDA_VISIBLE_DEVICES takes it."""
    product: str
    """Its name as the driver says it, e.g. `NVIDIA H200`."""
    memory_bytes: int
    """What programs may use: what the driver keeps for itself is taken off."""
    compute_capability: str
    """E.g. `9.0`."""

    @property
    def gpu_type(self) -> str:
        """What endpoints ask for, e.g. `h200-sxm`."""
        return gpu_type_of(self.product)


@dataclass(frozen=True, slots=True)
class Found:
    """The GPUs of a host that its replicas may use: all of one type."""

    driver: str
    """Its version, e.g. `580.159.04`."""
    gpus: tuple[Gpu, ...]
    """In the driver's order, which is that of the PCI bus. Never empty."""


def find_gpus() -> Found | None:
    """Return the GPUs of this host; None: it has none.

    Raises:
        GpusUnreadableError: the driver does not answer as it should.

    """
    try:
        pynvml.nvmlInit()
    except (pynvml.NVMLError_LibraryNotFound, pynvml.NVMLError_DriverNotLoaded):
        return None
    except pynvml.NVMLError as error:
        raise _unreadable(error) from error
    try:
        gpus = [_look_at(index) for index in range(pynvml.nvmlDeviceGetCount())]
        driver = pynvml.nvmlSystemGetDriverVersion()
    except pynvml.NVMLError as error:
        raise _unreadable(error) from error
    return Found(driver, _of_one_type(gpus)) if gpus else None


def engine_memory(gpus: Sequence[Gpu], cache_bytes: int) -> int:
    """Return what the engine that has these GPUs alone takes of the fullest one, bytes. Blocks.

    Args:
        gpus: all that one replica has.
        cache_bytes: what its keys and values take of each; 0: unknown.

    Returns:
        Weights and working memory; 0 when it cannot be told: an engine fills what is left of a GPU
        with its cache, so what is in use says nothing while the size of that is unknown.

    """
    used = [usage.memory_bytes for gpu in gpus if (usage := usage_of(gpu.uuid))]
    return max(max(used) - cache_bytes, 0) if cache_bytes and used else 0


def gpu_type_of(product: str) -> str:
    """Return the type of a GPU by its product's name: `<model>[-<form>][-<memory>]`.

    The memory is part of it where one model comes with several sizes: `a100-sxm-40gb`.
    """
    words = [
        word
        for word in re.split(r"[^a-z0-9.]+", product.lower())
        if word and not _LEFT_OUT.fullmatch(word)
    ]
    form = next((found[1] for word in words if (found := _FORMS.fullmatch(word))), "")
    memory = next((f"{found[1]}gb" for word in words if (found := _MEMORY.fullmatch(word))), "")
    model = "-".join(
        word for word in words if not (_FORMS.fullmatch(word) or _MEMORY.fullmatch(word))
    )
    if not form and model in _SXM_UNLESS_SAID:
        form = "sxm"
    memory = _MEMORY_SAID.get((model, memory), memory)
    return "-".join(filter(None, (model or "gpu", form, memory)))[:_LONGEST_TYPE]


def _look_at(index: int) -> Gpu:
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle, version=pynvml.nvmlMemory_v2)
    major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(handle)
    return Gpu(
        uuid=pynvml.nvmlDeviceGetUUID(handle),
        product=pynvml.nvmlDeviceGetName(handle),
        memory_bytes=memory.total - memory.reserved,
        compute_capability=f"{major}.{minor}",
    )


def _of_one_type(gpus: Sequence[Gpu]) -> tuple[Gpu, ...]:
    """Return the GPUs of the commonest type: a node offers one, since any of them may be given."""
    ((gpu_type, _),) = Counter(gpu.gpu_type for gpu in gpus).most_common(1)
    for gpu in gpus:
        if gpu.gpu_type != gpu_type:
            log.warning("gpu_not_offered", gpu=gpu.uuid, product=gpu.product, offered=gpu_type)
    return tuple(gpu for gpu in gpus if gpu.gpu_type == gpu_type)


def _unreadable(error: Exception) -> GpusUnreadableError:
    return GpusUnreadableError(f"the NVIDIA driver does not say what GPUs there are: {error}")
