"""From a request to everything that a build is told. Pure: what is there is passed in.

What a plan holds is what decides the engine, with defaults filled in, so its recipe is the part of
the engine's key that comes from the request.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

from engineshed.agent.engines.interface import BuildRequest, EngineBuildError, Hardware
from engineshed.agent.engines.tensorrt_llm.shape import Model
from engineshed.fit import Estimate, Plan, estimate, unsupported

DEFAULT_MAX_CONTEXT: Final = 8192
"""The cap of max_context where none is asked for."""
DEFAULT_MAX_BATCH_SIZE: Final = 64
DEFAULT_MAX_BATCH_TOKENS: Final = 8192
PRECISIONS: Final = ("float32", "bfloat16", "float16")

_SMALLEST_CONTEXT: Final = 16
_BLOCK_TOKENS: Final = 32
_CALIBRATION_SAMPLES: Final = 512
_CALIBRATION_TOKENS: Final = 512
_AWQ_BLOCK: Final = 128

Route = Literal["convert", "quantize", "interpret"]
"""Converted as it is or with narrower weights only; quantized with calibration; not compiled."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """Texts to calibrate with."""

    digest: str
    """sha256 of train.jsonl."""
    texts: int


@dataclass(frozen=True, slots=True)
class Means:
    """What of the host a plan depends on."""

    compiled: bool
    """Whether an engine is compiled for this architecture; else the LLM API serves it."""
    guided: bool
    """Whether a grammar's description of the tokenizer can be made."""
    calibration: Calibration | None
    """None: there are no texts."""


@dataclass(frozen=True, slots=True)
class Quantizing:
    """How weights are made smaller with quantize.py."""

    qformat: str
    kv_cache_dtype: str | None
    awq_block_size: int | None
    samples: int
    sample_tokens: int
    calibration_digest: str


@dataclass(frozen=True, slots=True)
class Limits:
    """What the engine can take, under the names that trtllm-build and config.json have for it."""

    max_batch_size: int
    max_input_len: int
    max_seq_len: int
    max_num_tokens: int
    max_beam_width: int = 1


@dataclass(frozen=True, slots=True)
class BuildPlan:
    """Everything that a build is told."""

    route: Route
    dtype: str
    quantization: str | None
    """As it was asked for, or what the checkpoint came with."""
    quantizing: Quantizing | None
    tp_size: int
    limits: Limits
    features: Mapping[str, str]
    """The remaining arguments of trtllm-build, by name; empty where nothing is compiled."""
    guided_decoding: bool

    @property
    def weight_only(self) -> str | None:
        """The weights' type where converting alone makes them smaller."""
        return "int8" if self.route == "convert" and self.quantization == "int8_wo" else None

    @property
    def recipe(self) -> dict[str, Any]:
        """What of the request decides the build."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class _Format:
    """A quantization that needs calibration."""

    kv_cache_dtype: str | None = None
    awq_block_size: int | None = None


_CALIBRATED: Final[Mapping[str, _Format]] = {
    "fp8": _Format("fp8"),
    "int8_sq": _Format(),
    "int4_awq": _Format(awq_block_size=_AWQ_BLOCK),
    "w4a8_awq": _Format("fp8", _AWQ_BLOCK),
    "nvfp4": _Format("fp8"),
}
_QUANTIZATIONS: Final = (*_CALIBRATED, "int8_wo")
_WAS_QUANTIZED: Final[Mapping[str, str]] = {
    "awq": "int4_awq",
    "gptq": "int4_awq",
    "fbgemm_fp8": "w4a8_awq",
}
"""What the conversion scripts read of checkpoints that are quantized already, and the quantization
that goes with the same GPUs."""


def plan_build(request: BuildRequest, model: Model, means: Means) -> BuildPlan:
    """Return what to build.

    Raises:
        EngineBuildError: what is asked for cannot be built; never retryable.

    """
    _check_quantization(request, model, means)
    _check_heads(request, model)
    dtype = _dtype(request, model)
    quantizing = _quantizing(request, means)
    chunked = dtype != "float32"
    limits = _limits(request, model, chunked=chunked)
    route: Route = "convert" if quantizing is None else "quantize"
    return BuildPlan(
        route=route if means.compiled else "interpret",
        dtype=dtype,
        quantization=request.quantization or model.quantized_by,
        quantizing=quantizing,
        tp_size=request.hardware.count,
        limits=limits,
        features=_features(request, chunked=chunked) if means.compiled else {},
        guided_decoding=means.guided and means.compiled,
    )


def memory_plan(request: BuildRequest, model: Model) -> Plan:
    """Return the request as an estimate of memory takes it."""
    # Keys and values are as wide as what is computed; weights are as they are stored.
    wide = "float32" if _dtype(request, model) == "float32" else ""
    return Plan(
        gpu_memory_bytes=request.hardware.memory_bytes,
        gpu_count=request.hardware.count,
        precision=request.precision or wide,
        quantization=request.quantization or "",
        max_context=request.max_context or 0,
        max_batch_tokens=request.max_batch_tokens or 0,
    )


def _check_quantization(request: BuildRequest, model: Model, means: Means) -> None:
    quantization, gpu = request.quantization, request.hardware
    if quantization is not None:
        if quantization not in _QUANTIZATIONS:
            raise _refused(
                "UNSUPPORTED_QUANTIZATION",
                f"there is no quantization {quantization!r}; there are {', '.join(_QUANTIZATIONS)}",
            )
        if model.quantized_by:
            raise _refused(
                "ALREADY_QUANTIZED",
                f"the checkpoint is quantized already ({model.quantized_by}): leave quantization "
                "out, or register the weights as they were before",
            )
        if not means.compiled:
            raise _refused(
                "UNSUPPORTED_QUANTIZATION",
                f"no engine can be compiled for {model.architecture} here, and TensorRT-LLM's "
                "PyTorch runtime serves a checkpoint as it is: leave quantization out, or "
                "register weights that are quantized",
            )
    why = unsupported(gpu.architecture, quantization or "", model.architecture, gpu=gpu.product)
    if why:
        raise _refused("UNSUPPORTED_QUANTIZATION", why)
    if means.compiled and model.quantized_by:
        _check_prequantized(gpu, model)


def _check_prequantized(gpu: Hardware, model: Model) -> None:
    alike = _WAS_QUANTIZED.get(model.quantized_by or "")
    if alike is None:
        raise _refused(
            "UNSUPPORTED_QUANTIZATION",
            f"the checkpoint is quantized by {model.quantized_by}; TensorRT-LLM converts those of "
            f"{', '.join(_WAS_QUANTIZED)}",
        )
    if unsupported(gpu.architecture, alike):
        raise _refused(
            "UNSUPPORTED_QUANTIZATION",
            f"the checkpoint is quantized by {model.quantized_by}, which is not compiled for "
            f"{gpu.product}: register the weights as they were before, or take other GPUs",
        )
    if model.reordered:
        raise _refused(
            "UNSUPPORTED_QUANTIZATION",
            "the checkpoint is quantized by GPTQ with desc_act, which TensorRT-LLM does not "
            "convert: quantize it with desc_act=False",
        )


def _check_heads(request: BuildRequest, model: Model) -> None:
    count = request.hardware.count
    heads, shared = model.heads, model.shape.kv_heads
    divided = not heads or heads % count == 0
    # Fewer heads of keys and values than GPUs are replicated evenly.
    even = not shared or shared % count == 0 or count % shared == 0
    if not (divided and even):
        possible = [
            number
            for number in (1, 2, 4, 8)
            if heads % number == 0 and (shared % number == 0 or number % shared == 0)
        ]
        raise _refused(
            "UNSUPPORTED_GPU_COUNT",
            f"{heads} attention heads with {shared} of keys and values cannot be divided among "
            f"{count} GPUs; gpu_count {', '.join(map(str, possible))} can be",
        )


def _dtype(request: BuildRequest, model: Model) -> str:
    """Return the type of what is not quantized: the checkpoint's own where none is asked for."""
    asked = request.precision
    if asked is not None and asked not in PRECISIONS:
        raise _refused(
            "UNSUPPORTED_PRECISION",
            f"there is no precision {asked!r}; there are {', '.join(PRECISIONS)}",
        )
    quantized = request.quantization or model.quantized_by
    if quantized and asked == "float32":
        raise _refused(
            "UNSUPPORTED_PRECISION",
            f"with {quantized} the rest is computed in half precision: bfloat16 or float16",
        )
    own = "float16" if quantized and model.dtype == "float32" else model.dtype
    return asked or own


def _quantizing(request: BuildRequest, means: Means) -> Quantizing | None:
    name = request.quantization
    if name is None or name not in _CALIBRATED:
        return None
    if means.calibration is None:
        raise _refused(
            "NO_CALIBRATION_DATA",
            f"{name} is calibrated with texts, which are never taken from the network: put "
            "train.jsonl, an object with a field `text` on each line, into a folder of the GPU "
            "host and name that in ENGINESHED_CALIBRATION_DIR",
        )
    form = _CALIBRATED[name]
    return Quantizing(
        qformat=name,
        kv_cache_dtype=form.kv_cache_dtype,
        awq_block_size=form.awq_block_size,
        samples=min(_CALIBRATION_SAMPLES, means.calibration.texts),
        sample_tokens=_CALIBRATION_TOKENS,
        calibration_digest=means.calibration.digest,
    )


def _limits(request: BuildRequest, model: Model, *, chunked: bool) -> Limits:
    context = _max_context(request, model)
    asked = request.max_batch_tokens
    size = request.max_concurrent or min(DEFAULT_MAX_BATCH_SIZE, asked or DEFAULT_MAX_BATCH_SIZE)
    # A prompt that cannot be cut into pieces goes in one step; else a step takes a block at least.
    least = max(size, _BLOCK_TOKENS if chunked else context)
    if asked and asked < least:
        raise _refused(
            "UNSUPPORTED_BATCH_TOKENS",
            f"serving.max_batch_tokens {asked} is less than {least}: a step takes a token of each "
            f"request of serving.max_batch_size ({size}), "
            + (f"and {_BLOCK_TOKENS} at least" if chunked else "and in float32 a whole prompt"),
        )
    tokens = asked or max(DEFAULT_MAX_BATCH_TOKENS, least)
    return Limits(
        max_batch_size=size,
        max_input_len=context - 1,
        max_seq_len=context,
        # trtllm-build itself takes no more than all requests at their longest come to.
        max_num_tokens=max(min(tokens, size * context), _BLOCK_TOKENS),
    )


def _max_context(request: BuildRequest, model: Model) -> int:
    own, asked = model.stated_context, request.max_context
    if asked is None:
        cap = min(own or DEFAULT_MAX_CONTEXT, DEFAULT_MAX_CONTEXT)
        room = _room(request, model)
        # Where the estimate finds less room than that, the engine is made for what there is.
        return min(cap, room.max_tokens) if room is not None and room.fits else cap
    if own and asked > own:
        raise _refused(
            "MAX_CONTEXT_TOO_LARGE",
            f"max_context {asked} is more than the {own} tokens that the model was made for",
        )
    if asked < _SMALLEST_CONTEXT:
        raise _refused(
            "MAX_CONTEXT_TOO_SMALL", f"max_context {asked} is less than {_SMALLEST_CONTEXT}"
        )
    return asked


def _room(request: BuildRequest, model: Model) -> Estimate | None:
    """Return the estimate of the memory; None: it cannot be made."""
    if not (model.shape.known and request.hardware.memory_bytes):
        return None
    return estimate(model.shape, memory_plan(request, model))


def _features(request: BuildRequest, *, chunked: bool) -> dict[str, str]:
    form = _CALIBRATED.get(request.quantization or "", _Format())
    return {
        "kv_cache_type": "paged",
        "tokens_per_block": str(_BLOCK_TOKENS),
        "gpt_attention_plugin": "auto",
        "gemm_plugin": "disable" if request.quantization == "fp8" else "auto",
        "remove_input_padding": "enable",
        # There is no fused attention in float32, and without it neither reuse nor chunks.
        "context_fmha": _word(chunked),
        "use_paged_context_fmha": _word(chunked),
        # Pages in fp8 are read by attention in fp8 alone.
        "use_fp8_context_fmha": _word(form.kv_cache_dtype == "fp8"),
        "multiple_profiles": "enable",
    }


def _word(enabled: bool) -> str:
    return "enable" if enabled else "disable"


def _refused(code: str, message: str) -> EngineBuildError:
    return EngineBuildError(code, message, retryable=False)
