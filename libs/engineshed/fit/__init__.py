"""Whether a model fits on GPUs, before anything is built: estimates from a checkpoint's headers."""

from engineshed.fit.estimate import Estimate, Plan, estimate, nearest_fits
from engineshed.fit.gpus import GIB, MIB, capability_of, memory_of
from engineshed.fit.shape import ModelShape, StoredTensor, shape_of
from engineshed.fit.support import unsupported

__all__ = [
    "GIB",
    "MIB",
    "Estimate",
    "ModelShape",
    "Plan",
    "StoredTensor",
    "capability_of",
    "estimate",
    "memory_of",
    "nearest_fits",
    "shape_of",
    "unsupported",
]
