"""The memory that a model takes on each of its GPUs while it serves.

TensorRT-LLM's own account of it (docs/source/legacy/reference/memory.md): the weights, divided by
tensor parallelism; activations, fixed when the engine is built and linear in the tokens of a batch;
runtime buffers; and a pool of keys and values that takes a part of what is then free. Reserved
memory and activations are planning figures, unless somebody has measured what such an engine takes.
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
_ACTIVATION_BYTES: Final = 1.2 * GIB  # of so many tokens in a batch, at a hidden size of 4,096
_EXPERTS_BYTES: Final = 0.3 * GIB  # more for a mixture of experts
_BLOCK_TOKENS: Final = 32

# What holds where a plan does not say.
BATCH_TOKENS: Final = 8192
KV_CACHE_FRACTION: Final = 0.9

# Where no context is asked for, a model must have room for so much of it.
_LEAST_CONTEXT: Final = 2048

# Alternatives named at most.
_MOST_WAYS: Final = 3


@dataclass(frozen=True, slots=True)
class Plan:
    """How a model is to be served."""

    gpu_memory_bytes: int  # of each GPU
    gpu_count: int = 1  # that share the model
    precision: str = ""  # "": as the weights are stored
    quantization: str = ""
    max_context: int = 0  # 0: as much of what the model states as there is room for
    max_batch_tokens: int = 0  # of one step; 0: BATCH_TOKENS
    kv_cache_fraction: float = 0.0  # of what is free of a loaded engine; 0: KV_CACHE_FRACTION
    measured_bytes: int = 0  # what it was seen to take of each GPU without the pool; 0: nobody saw


@dataclass(frozen=True, slots=True)
class Estimate:
    """What each GPU would hold, in bytes."""

    plan: Plan
    weight_bytes: int
    token_bytes: int  # keys and values of one token
    activation_bytes: int  # where it was measured: all but the weights
    reserved_bytes: int  # where it was measured: 0, what CUDA takes is among the rest
    needed_context: int  # tokens of one request that there must be room for
    max_tokens: int  # of all requests together that there is room for

    @property
    def fits(self) -> bool:
        """Whether one request of the longest context has room."""
        return self.max_tokens >= self.needed_context

    @property
    def fixed_bytes(self) -> int:
        """What it takes whatever is asked of it: all but the pool of keys and values."""
        return self.weight_bytes + self.activation_bytes + self.reserved_bytes

    @property
    def needed_bytes(self) -> int:
        """What it takes at least."""
        pool = ceil(self.needed_context / _BLOCK_TOKENS) * _BLOCK_TOKENS * self.token_bytes
        return self.fixed_bytes + ceil(pool / _pool_share(self.plan))


def estimate(shape: ModelShape, plan: Plan) -> Estimate:
    """Return what a model takes on each GPU of a plan; its shape must be `known`."""
    weights, activations, reserved = _fixed(shape, plan)
    token = _token_bytes(shape, plan)
    free = max(0, plan.gpu_memory_bytes - weights - activations - reserved)
    blocks = int(_pool_share(plan) * free) // (token * _BLOCK_TOKENS)
    return Estimate(
        plan=plan,
        weight_bytes=weights,
        token_bytes=token,
        activation_bytes=activations,
        reserved_bytes=reserved,
        needed_context=_needed_context(shape, plan),
        max_tokens=blocks * _BLOCK_TOKENS,
    )


def nearest_fits(
    shape: ModelShape, plan: Plan, gpu_counts: Sequence[int], quantizations: Sequence[str]
) -> list[Estimate]:
    """Return what fits and is like `plan` but for one thing, or for two where one is not enough.

    Args:
        shape: of the model; it must be `known`.
        plan: what does not fit. What was measured of it holds for a shorter context and for
            another share of the pool; of everything else nothing was measured.
        gpu_counts: that could be had, ascending.
        quantizations: that could be had.

    """
    more = [count for count in gpu_counts if count > plan.gpu_count]
    room = estimate(shape, plan).max_tokens
    other = replace(plan, measured_bytes=0)
    ways = [
        [replace(plan, max_context=room)] if room else [],
        _with_usual_pool(plan),
        _with_usual_batches(other),
        [replace(other, gpu_count=count) for count in more],
        [replace(other, quantization=name) for name in quantizations],
    ]
    found = [one for way in ways if (one := _first_fit(shape, way)) is not None]
    if found:
        return found[:_MOST_WAYS]
    both = (
        replace(other, gpu_count=count, quantization=name)
        for count in more
        for name in quantizations
    )
    last = _first_fit(shape, both)
    return [last] if last else []


def _with_usual_pool(plan: Plan) -> list[Plan]:
    less = _pool_share(plan) < KV_CACHE_FRACTION
    return [replace(plan, kv_cache_fraction=KV_CACHE_FRACTION)] if less else []


def _with_usual_batches(plan: Plan) -> list[Plan]:
    more = plan.max_batch_tokens > BATCH_TOKENS
    return [replace(plan, max_batch_tokens=BATCH_TOKENS)] if more else []


def _first_fit(shape: ModelShape, plans: Iterable[Plan]) -> Estimate | None:
    return next((one for plan in plans if (one := estimate(shape, plan)).fits), None)


def _needed_context(shape: ModelShape, plan: Plan) -> int:
    if plan.max_context:
        return plan.max_context
    return min(shape.max_context or _LEAST_CONTEXT, _LEAST_CONTEXT)


def _pool_share(plan: Plan) -> float:
    return plan.kv_cache_fraction or KV_CACHE_FRACTION


def _fixed(shape: ModelShape, plan: Plan) -> tuple[int, int, int]:
    """Return the bytes on each GPU of weights, of activations, and of CUDA itself."""
    weights = _weight_bytes(shape, plan)
    if plan.measured_bytes:
        weights = min(weights, plan.measured_bytes)
        return weights, plan.measured_bytes - weights, 0
    wide = _ACTIVATION_BYTES * max(1.0, shape.hidden / 4096) + _EXPERTS_BYTES * bool(shape.experts)
    batches = (plan.max_batch_tokens or BATCH_TOKENS) / BATCH_TOKENS
    return weights, int(wide * batches), _RESERVED_BYTES


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
