"""The texts by which failures of TensorRT-LLM and Triton are known, and what each failure means.

The texts are those that people have met (issues of TensorRT-LLM, of its Triton back end and of
Triton). Their order matters: what says more stands before what may only follow from it.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

Phase = Literal["convert", "build", "load", "serve", "shutdown"]
"""What was being done; `convert` is also quantizing."""


@dataclass(frozen=True, slots=True)
class Known:
    """What a failure means."""

    retryable: bool
    """False when it would fail again anywhere."""
    advice: str
    """What people can do about it."""


_OTHER_IMAGE: Final = "run the agent in NVIDIA's image tritonserver:…-trtllm-python-py3"
_LESS_WIDE: Final = "ask for less context, a smaller batch, a quantization, or more GPUs"

KNOWN: Final[Mapping[str, Known]] = {
    # Before and while an engine is built.
    "BUILD_OOM_HOST": Known(
        True,
        "the host ran out of memory: a build wants about three times the weights; give the "
        "container more, or build on a larger host",
    ),
    "BUILD_OOM_GPU": Known(
        True,
        "the GPU's memory did not suffice for the build, which takes more than serving does; see "
        f"that nothing else uses the GPU, or {_LESS_WIDE}",
    ),
    "DISK_FULL": Known(
        True, "the disk is full: checkpoint, intermediate and engine take 2.5 times the weights"
    ),
    "UNSUPPORTED_SM": Known(
        False,
        "this TensorRT-LLM has no kernel for it on this generation of GPUs: choose another "
        "quantization or another GPU type",
    ),
    "NO_CALIBRATION_DATA": Known(
        False,
        "calibration texts are taken from this node alone, never from the network: put train.jsonl "
        "with a field `text` into a folder and name that in ENGINESHED_CALIBRATION_DIR",
    ),
    "TRT_PATH_REMOVED": Known(
        True,
        "this TensorRT-LLM builds no engines any more (after 1.3.0rc20): run the agent in an image "
        "that does, e.g. tritonserver:26.07-trtllm-python-py3",
    ),
    "TOOLCHAIN_MISMATCH": Known(
        False, "this TensorRT-LLM takes other arguments than this release of the agent gives"
    ),
    "DRIVER_TOO_OLD": Known(
        True, "the GPU driver is too old for the image's CUDA: upgrade it, or run an older image"
    ),
    "BUILD_CRASHED": Known(True, "the program crashed; if it does so again, read the build's log"),
    "BUILD_STALLED": Known(
        True,
        "it did nothing for so long that it was ended; ENGINESHED_BUILD_STALL_S says how long it "
        "may rest",
    ),
    "BUILD_TIMEOUT": Known(True, "it took longer than any build should"),
    "CONVERT_FAILED": Known(True, "the build's log says more"),
    "BUILD_FAILED": Known(True, "the build's log says more"),
    # While it is loaded.
    "ENGINE_WRONG_GPU": Known(
        True, "the engine was built for another GPU: remove it from the cache, it is built anew"
    ),
    "ENGINE_VERSION_MISMATCH": Known(
        True,
        "the engine was built by another version of TensorRT: remove it from the cache, it is "
        "built anew",
    ),
    "ENGINE_LOAD_FAILED": Known(True, "the log of Triton says more"),
    "OOM_AT_LOAD": Known(
        True,
        "the GPU's memory did not suffice: see that nothing else uses the GPU, lower "
        f"kv_cache_fraction, or {_LESS_WIDE}",
    ),
    "LOAD_OOM_HOST": Known(
        True, "the host ran out of memory: give the container more, or use a larger host"
    ),
    "WORLD_SIZE_MISMATCH": Known(
        False, "an engine of several GPUs needs one process for each; this is a bug of the agent"
    ),
    "LOAD_STALLED": Known(
        True,
        "it said nothing for so long that it was ended; with several GPUs look at NCCL: is shared "
        "memory large enough, do the GPUs reach each other (NCCL_P2P_DISABLE=1 as an experiment)",
    ),
    "SHM_TOO_SMALL": Known(
        True,
        "shared memory is too small: docker run --shm-size=2g, or mount -o remount,size=2g with "
        "the path of the shm mount",
    ),
    "BACKEND_MISSING": Known(True, f"Triton has no such back end: {_OTHER_IMAGE}"),
    "RENDER_BUG": Known(
        False, "Triton cannot read the configuration that was rendered; this is a bug of the agent"
    ),
    "DECOUPLED_MISMATCH": Known(
        False, "the model is not set up to stream; this is a bug of the agent"
    ),
    "CRASH_AT_LOAD": Known(True, "Triton crashed; if it does so again, read its log"),
    "STUB_STUCK": Known(
        True, "a process of Triton's Python back end did not start; is the host overloaded?"
    ),
    "MPI_ABORT": Known(True, "one process of several gave up; what it said before is the cause"),
    # Afterwards.
    "EXECUTOR_DEAD": Known(True, "the engine answers no more, though Triton does"),
    "SERVE_FAILED": Known(True, "the log of Triton says more"),
    "LORA_NOT_CACHED": Known(True, "the adapter's weights must be sent with the request again"),
    "PROMPT_TOO_LONG": Known(False, "the prompt is longer than the engine takes"),
    "SHUTDOWN_UNCLEAN": Known(
        True, "Triton ended by a signal; after it was drained that means nothing"
    ),
}
"""Whether another try may help and what people can do, for each code."""


@dataclass(frozen=True, slots=True)
class Signature:
    """Texts that tell of one failure in some phases."""

    text: re.Pattern[str]
    code: str
    phases: tuple[Phase, ...]


MAKING: Final[tuple[Phase, ...]] = ("convert", "build")
RUNNING: Final[tuple[Phase, ...]] = ("load", "serve")
_ANY: Final[tuple[Phase, ...]] = (*MAKING, *RUNNING)


def _sign(code: str, phases: tuple[Phase, ...], *texts: str) -> Signature:
    return Signature(re.compile("|".join(texts), re.IGNORECASE), code, phases)


SIGNATURES: Final = (
    _sign("ENGINE_WRONG_GPU", _ANY, r"engine plan file is generated on an incompatible device"),
    _sign(
        "ENGINE_VERSION_MISMATCH",
        _ANY,
        r"engine plan file is not compatible with this version of TensorRT",
        r"expecting library version",
    ),
    _sign(
        "WORLD_SIZE_MISMATCH",
        _ANY,
        r"Assertion failed: mpiSize == tp \* pp",
        r"MPI worldSize is expected to be equal to tp\s*\*\s*pp",
    ),
    _sign(
        "SHM_TOO_SMALL",
        _ANY,
        r"Failed to increase the shared memory pool size",
        r"use '--shm-size'",
        r"Unable to initialize shared memory key",
        r"(/dev/shm|shm_open|shared memory).*No space left on device",
    ),
    _sign("SHM_TOO_SMALL", RUNNING, r"No space left on device"),
    _sign("DISK_FULL", MAKING, r"No space left on device", r"Disk quota exceeded"),
    _sign(
        "DECOUPLED_MISMATCH",
        _ANY,
        r"Streaming is only supported if model is deployed using decoupled mode",
        r"Streaming is only supported in decoupled mode",
        r"doesn't support models with decoupled transaction policy",
    ),
    _sign("BACKEND_MISSING", _ANY, r"unable to find backend library for backend"),
    _sign("RENDER_BUG", RUNNING, r"failed to read text proto from"),
    _sign(
        "TRT_PATH_REMOVED",
        _ANY,
        r"trtllm-build: (command )?not found",
        r"No module named 'tensorrt_llm\._tensorrt_engine'",
        r"ValueError:.*backend\s*=?\s*[\"'`]?tensorrt[\"'`]?",
    ),
    _sign(
        "TOOLCHAIN_MISMATCH",
        MAKING,
        r"error: unrecognized arguments",
        r"error: argument \S+: invalid choice",
        r"error: the following arguments are required",
    ),
    _sign(
        "NO_CALIBRATION_DATA",
        MAKING,
        r"OfflineModeIsEnabled",
        r"Couldn't (reach|find) .*(dataset|cnn_dailymail|on the (Hugging Face )?Hub)",
        r"(DatasetNotFoundError|LocalEntryNotFoundError)",
    ),
    _sign("DRIVER_TOO_OLD", _ANY, r"CUDA driver version is insufficient for CUDA runtime version"),
    _sign(
        "BUILD_OOM_HOST",
        MAKING,
        r"Cannot allocate memory",
        r"std::bad_alloc",
        r"^MemoryError\b",
        r"process pool was terminated abruptly",
        r"exitcode:? -9\b",
    ),
    _sign(
        "UNSUPPORTED_SM",
        _ANY,
        r"no kernel image is available",
        r"no kernel (was )?(found|available)",
        r"fmha.*(unsupported|not supported|no kernel)",
        r"(unsupported|not supported).*(fmha|\bsm_?\d+|\bSM\b|compute capability)",
        r"\bsm_?\d+\b.*(unsupported|not supported)",
    ),
    _sign(
        "BUILD_OOM_GPU",
        MAKING,
        r"out of memory",
        r"CUDA runtime error in ::cudaMalloc",
        r"could not find any supported formats",
        r"requested size .* insufficient memory",
    ),
    _sign(
        "OOM_AT_LOAD",
        RUNNING,
        r"CUDA runtime error in ::cudaMalloc",
        r"out of memory",
    ),
    _sign(
        "LORA_NOT_CACHED", ("serve",), r"lora.?task.?id.*not (found in|in|cached)", r"lora.*evict"
    ),
    _sign("PROMPT_TOO_LONG", ("serve",), r"Prompt length \(\d+\) exceeds maximum input length"),
    _sign("ENGINE_VERSION_MISMATCH", RUNNING, r"Failed to deserialize cuda engine"),
    _sign(
        "CRASH_AT_LOAD",
        RUNNING,
        r"Floating point exception",
        r"Segmentation fault",
        r"Signal \((8|11)\) received",
    ),
    _sign("BUILD_CRASHED", MAKING, r"Floating point exception", r"Segmentation fault"),
)
