"""The memory of GPUs by type, for those that are only simulated."""

from collections.abc import Mapping
from typing import Final

MIB: Final = 2**20
GIB: Final = 2**30

# What `nvidia-smi` shows as total where that is known, else the nominal gigabytes of the data
# sheet (docs.nvidia.com, MIG user guide r610), which are decimal.
_MEMORY_BYTES: Final[Mapping[str, int]] = {
    "a10": 24_000_000_000,
    "a30": 24_000_000_000,
    "a40": 48_000_000_000,
    "a100-pcie-40gb": 40_000_000_000,
    "a100-pcie-80gb": 80_000_000_000,
    "a100-sxm-40gb": 40_000_000_000,
    "a100-sxm-80gb": 80_000_000_000,
    "b200-sxm": 180_000_000_000,
    "gb200": 186_000_000_000,
    "gh200-96gb": 96_000_000_000,
    "h20-sxm": 96_000_000_000,
    "h100-nvl": 94_000_000_000,
    "h100-pcie": 81_559 * MIB,
    "h100-sxm": 81_559 * MIB,
    "h200-nvl": 143_771 * MIB,
    "h200-sxm": 143_771 * MIB,
    "l4": 24_000_000_000,
    "l20": 48_000_000_000,
    "l40": 48_000_000_000,
    "l40s": 48_000_000_000,
    "t4": 16_000_000_000,
}

# How people call those that come in one form mostly.
_SHORT: Final[Mapping[str, str]] = {
    "a100": "a100-sxm-80gb",
    "b200": "b200-sxm",
    "h20": "h20-sxm",
    "h100": "h100-sxm",
    "h200": "h200-sxm",
}


def memory_of(gpu_type: str) -> int:
    """Return the bytes of a GPU of this type; 0 when the type is not known here."""
    return _MEMORY_BYTES.get(_SHORT.get(gpu_type, gpu_type), 0)
