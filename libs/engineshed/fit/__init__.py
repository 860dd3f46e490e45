"""Whether a model fits on GPUs, before anything is built: estimates from a checkpoint's headers."""

from engineshed.fit.estimate import Estimate, Plan, estimate, nearest_fits
from engineshed.fit.gpus import GIB, MIB, memory_of
from engineshed.fit.shape import ModelShape, StoredTensor, shape_of

__all__ = [
    "GIB",
    "MIB",
    "Estimate",
    "ModelShape",
    "Plan",
    "StoredTensor",
    "estimate",
    "memory_of",
    "nearest_fits",
    "shape_of",
]
