"""The GPUs of this host: what the agent offers, how they are connected, and traces of others."""

import re
from collections.abc import Collection
from pathlib import Path
from typing import Any, Final

import pynvml

from engineshed.agent.domain.doctor.facts import Gpu, Offer, Traces
from engineshed.agent.inventory import Inventory

_KERNEL_DRIVER: Final = Path("/proc/driver/nvidia/version")
_PCI_DEVICES: Final = Path("/sys/bus/pci/devices")
_NVIDIA: Final = "0x10de"
_DISPLAYS: Final = ("0x0300", "0x0302")
"""PCI classes of GPUs, with and without an output."""


def offer_of(inventory: Inventory) -> Offer:
    """Return what the agent would offer, as it would tell it to the scheduler."""
    hardware = inventory.hardware(1)
    real = bool(inventory.gpus)
    return Offer(
        gpu_type=inventory.gpu_type,
        count=inventory.gpu_count,
        simulated=inventory.simulated,
        memory_bytes=inventory.gpu_memory_bytes,
        product=hardware.product if real else "",
        compute_capability=hardware.architecture if real else "",
        driver=inventory.driver,
    )


def look_at_connections(offered: Collection[str]) -> tuple[Gpu, ...]:
    """Return all GPUs that the driver lists, of which those with the UUIDs `offered` are offered.

    The agent's inventory was taken before, which has initialized NVML.
    """
    handles = [
        pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())
    ]
    return tuple(_look_at(handle, offered) for handle in handles)


def look_for_traces(kernel_driver: Path = _KERNEL_DRIVER, pci: Path = _PCI_DEVICES) -> Traces:
    """Return what there is of NVIDIA, whatever NVML says."""
    version = re.search(r"\b\d{3}\.\d+(\.\d+)?\b", _read(kernel_driver))
    devices = [
        device
        for device in pci.glob("*")
        if _read(device / "vendor") == _NVIDIA and _read(device / "class").startswith(_DISPLAYS)
    ]
    return Traces(version[0] if version else "", len(devices))


def _look_at(handle: Any, offered: Collection[str]) -> Gpu:  # noqa: ANN401 - the library's own
    uuid = pynvml.nvmlDeviceGetUUID(handle)
    return Gpu(
        uuid=uuid,
        product=pynvml.nvmlDeviceGetName(handle),
        offered=uuid in offered,
        pcie=_pcie(handle),
        nvlinks=_nvlinks(handle),
    )


def _pcie(handle: Any) -> str:  # noqa: ANN401 - the library's own
    try:
        # The generation in use is lower while a GPU rests; the width is that of its slot.
        generation = pynvml.nvmlDeviceGetMaxPcieLinkGeneration(handle)
        width = pynvml.nvmlDeviceGetCurrPcieLinkWidth(handle)
    except pynvml.NVMLError:
        return ""  # not on PCI, or in a virtual machine that does not say
    return f"PCIe {generation} x{width}"


def _nvlinks(handle: Any) -> int:  # noqa: ANN401 - the library's own
    up = 0
    for link in range(pynvml.NVML_NVLINK_MAX_LINKS):
        try:
            up += pynvml.nvmlDeviceGetNvLinkState(handle, link) == pynvml.NVML_FEATURE_ENABLED
        except pynvml.NVMLError:
            break  # it has no more, or none at all
    return up


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""  # no NVIDIA, no PCI
