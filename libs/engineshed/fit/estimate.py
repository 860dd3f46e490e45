"""The memory that a model takes on each of its GPUs while it serves.

TensorRT-LLM's own account of it (docs/source/legacy/reference/memory.md): the weights, divided by
tensor parallelism; activations, fixed when the engine is built and linear in the tokens of a batch;
runtime buffers; and a pool of keys and values that takes a part of what is then free. Reserved
memory and activations are planning figures, not measured ones.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import Final

from engineshed.fit.gpus import GIB
from engineshed.fit.shape import ModelShape

# Bits of a weight, with its scales.
_PRECISIONS: Final[Mapping[str, float]] = {"float32": 32, "bfloat16": 16, "float16": 16}
_QUANTIZATIONS: Final[Mapping[str, float]] = {
    "fp8": 8,
    "int8_sq": 8,
    "int8_wo": 8,
    "int4_awq": 4 + 16 / 128,
    "w4a8_awq": 4 + 16 / 128,
    "nvfp4": 4 + 8 / 16,
}
# Keys and values of these are kept in one byte each.
_NARROW_CACHE: Final = frozenset({"fp8", "w4a8_awq", "nvfp4"})

_RESERVED_BYTES: Final = GIB // 2  # the CUDA context and NCCL
_ACTIVATION_BYTES: Final = 1.2 * GIB  # of 8,192 tokens in a batch, at a hidden size of 4,096
_EXPERTS_BYTES: Final = 0.3 * GIB  # more for a mixture of experts
_BATCH_TOKENS: Final = 8192
_POOL: Final = 0.9  # of what is free once the engine is loaded
_BLOCK_TOKENS: Final = 32

# Where no context is asked for, a model must have room for so much of it.
_LEAST_CONTEXT: Final = 2048


@dataclass(frozen=True, slots=True)
class Plan:
    """How a model is to be served."""

    gpu_memory_bytes: int  # of each GPU
    gpu_count: int = 1  # that share the model
    precision: str = ""  # "": as the weights are stored
    quantization: str = ""
    max_context: int = 0  # 0: as much of what the model states as there is room for


@dataclass(frozen=True, slots=True)
class Estimate:
    """What each GPU would hold, in bytes."""

    plan: Plan
    weight_bytes: int
    token_bytes: int  # keys and values of one token
    activation_bytes: int
    reserved_bytes: int
    needed_context: int  # tokens of one request that there must be room for
    max_tokens: int  # of all requests together that there is room for

    @property
    def fits(self) -> bool:
        """Whether one request of the longest context has room."""
        return self.max_tokens >= self.needed_context

    @property
    def needed_bytes(self) -> int:
        """What it takes at least."""
        pool = ceil(self.needed_context / _BLOCK_TOKENS) * _BLOCK_TOKENS * self.token_bytes
        fixed = self.weight_bytes + self.activation_bytes + self.reserved_bytes
        return fixed + ceil(pool / _POOL)


def estimate(shape: ModelShape, plan: Plan) -> Estimate:
    """Return what a model takes on each GPU of a plan; its shape must be `known`."""
    weights = _weight_bytes(shape, plan)
    token = _token_bytes(shape, plan)
    width = max(1.0, shape.hidden / 4096)
    activations = int(_ACTIVATION_BYTES * width + _EXPERTS_BYTES * bool(shape.experts))
    free = plan.gpu_memory_bytes - _RESERVED_BYTES - weights - activations
    blocks = int(_POOL * max(0, free)) // (token * _BLOCK_TOKENS)
    return Estimate(
        plan=plan,
        weight_bytes=weights,
        token_bytes=token,
        activation_bytes=activations,
        reserved_bytes=_RESERVED_BYTES,
        needed_context=_needed_context(shape, plan),
        max_tokens=blocks * _BLOCK_TOKENS,
    )


def nearest_fits(
    shape: ModelShape, plan: Plan, gpu_counts: Sequence[int], quantizations: Sequence[str]
) -> list[Estimate]:
    """Return what fits and is like `plan` but for one thing, or for two where one is not enough.

    Args:
        shape: of the model; it must be `known`.
        plan: what does not fit.
        gpu_counts: that could be had, ascending.
        quantizations: that could be had.

    """
    more = [count for count in gpu_counts if count > plan.gpu_count]
    room = estimate(shape, plan).max_tokens
    ways = [
        [replace(plan, max_context=room)] if room else [],
        [replace(plan, gpu_count=count) for count in more],
        [replace(plan, quantization=name) for name in quantizations],
    ]
    found = [one for way in ways if (one := _first_fit(shape, way)) is not None]
    if found:
        return found
    both = (
        replace(plan, gpu_count=count, quantization=name)
        for count in more
        for name in quantizations
    )
    last = _first_fit(shape, both)
    return [last] if last else []


def _first_fit(shape: ModelShape, plans: Iterable[Plan]) -> Estimate | None:
    return next((one for plan in plans if (one := estimate(shape, plan)).fits), None)


def _needed_context(shape: ModelShape, plan: Plan) -> int:
    if plan.max_context:
        return plan.max_context
    return min(shape.max_context or _LEAST_CONTEXT, _LEAST_CONTEXT)


def _weight_bytes(shape: ModelShape, plan: Plan) -> int:
    """Return the bytes of the weights on each GPU."""
    if not plan.precision and not plan.quantization:
        return ceil(shape.weight_bytes / plan.gpu_count)
    stored = 8 * shape.weight_bytes / shape.parameters
    wide = _PRECISIONS.get(plan.precision, stored)
    # What is not quantized is served in half precision at most.
    narrow = _QUANTIZATIONS.get(plan.quantization, wide)
    rest = min(wide, 16) if plan.quantization else wide
    bits = shape.quantizable * narrow + (shape.parameters - shape.quantizable) * rest
    return ceil(bits / 8 / plan.gpu_count)


def _token_bytes(shape: ModelShape, plan: Plan) -> int:
    """Return the bytes of the keys and values of one token on each GPU.

    Heads are divided among GPUs, and there again when there are fewer of them than GPUs.
    """
    value_bytes = 1 if plan.quantization in _NARROW_CACHE else 2
    if plan.precision == "float32":
        value_bytes = 4
    if shape.latent:
        return shape.layers * shape.latent * value_bytes
    heads = ceil(shape.kv_heads / plan.gpu_count)
    return 2 * shape.layers * heads * shape.head_dim * value_bytes
