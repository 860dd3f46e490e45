"""What is known of GPUs by type: their memory, for those that are simulated, and generation."""

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


# By model, whatever its form and memory (developer.nvidia.com/cuda-gpus).
_CAPABILITIES: Final[Mapping[str, str]] = {
    "v100": "7.0",
    "t4": "7.5",
    "a30": "8.0",
    "a100": "8.0",
    "a10": "8.6",
    "a40": "8.6",
    "rtx-a6000": "8.6",
    "l4": "8.9",
    "l20": "8.9",
    "l40": "8.9",
    "l40s": "8.9",
    "rtx-4060": "8.9",
    "rtx-4070": "8.9",
    "rtx-4080": "8.9",
    "rtx-4090": "8.9",
    "rtx-6000-ada": "8.9",
    "gh200": "9.0",
    "h20": "9.0",
    "h100": "9.0",
    "h200": "9.0",
    "b200": "10.0",
    "gb200": "10.0",
    "b300": "10.3",
    "gb300": "10.3",
    "rtx-5060": "12.0",
    "rtx-5070": "12.0",
    "rtx-5080": "12.0",
    "rtx-5090": "12.0",
    "rtx-pro-4500-blackwell": "12.0",
    "rtx-pro-5000-blackwell": "12.0",
    "rtx-pro-6000-blackwell": "12.0",
    "gb10": "12.1",
}


def memory_of(gpu_type: str) -> int:
    """Return the bytes of a GPU of this type; 0 when the type is not known here."""
    return _MEMORY_BYTES.get(_SHORT.get(gpu_type, gpu_type), 0)


def capability_of(gpu_type: str) -> str:
    """Return the compute capability of a GPU of this type; "" when the type is not known here."""
    words = gpu_type.split("-")
    models = ("-".join(words[:count]) for count in range(len(words), 0, -1))
    return next((_CAPABILITIES[model] for model in models if model in _CAPABILITIES), "")
