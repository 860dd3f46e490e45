"""What a compiled engine can do on a generation of GPUs.

TensorRT-LLM's own matrix (docs/source/legacy/reference/support-matrix.md, precision.md), less what
its builder refuses (tensorrt_llm/builder.py). Nothing of it is about PyTorch on the same GPUs.
"""

from collections.abc import Mapping, Sequence
from typing import Final

_QUANTIZATIONS: Final = ("fp8", "int8_wo", "int8_sq", "int4_awq", "w4a8_awq", "nvfp4")

# Everything else, quantized or not, needs the oldest generation only.
_NEEDED: Final[Mapping[str, tuple[int, ...]]] = {
    "fp8": (8, 9),
    "w4a8_awq": (8, 9),  # its activations are fp8
    "nvfp4": (10, 0),
}
_OLDEST: Final = (8, 0)

_FROM: Final[Mapping[tuple[int, ...], str]] = {
    (8, 0): "an A30, A100, L4 or newer",
    (8, 9): "an L4, L40S, H100 or newer",
    (10, 0): "a B200 or newer",
}

# What the builder refuses from one compute capability up to another.
_LEFT_OUT: Final = ((10, 0), (12, 0), ("int8_wo", "int8_sq", "int4_awq", "w4a8_awq"))

# Where not every architecture goes.
_ARCHITECTURES: Final[Mapping[str, tuple[str, ...]]] = {
    "nvfp4": ("LlamaForCausalLM", "MixtralForCausalLM"),
}


def unsupported(
    capability: str, quantization: str = "", architecture: str = "", *, gpu: str = ""
) -> str:
    """Return why no compiled engine serves a model so, and what would; "" where one does.

    The precisions need no asking: each goes with every generation that anything goes with.

    Args:
        capability: the GPUs' compute capability, e.g. "9.0"; "": it is not known, nor judged.
        quantization: how weights are made smaller; "": not at all.
        architecture: of config.json; "": it is not known, nor judged.
        gpu: what to call the GPUs in the answer; "": by their capability.

    """
    if not capability:
        return ""
    gpu = gpu or f"compute capability {capability}"
    if _generation(capability) < _OLDEST:
        return (
            f"TensorRT-LLM needs {_FROM[_OLDEST]}; on {gpu} only the torch back end serves, "
            "without quantization"
        )
    needed = _NEEDED.get(quantization, _OLDEST)
    ways = f"on {gpu} {_any_of(_possible(capability, architecture))} go"
    if _generation(capability) < needed:
        return f"{quantization} needs {_FROM[needed]}; {ways}"
    if _left_out(capability, quantization):
        return f"{quantization} is not compiled for such GPUs; {ways}"
    only = _ARCHITECTURES.get(quantization, (architecture,))
    if architecture and architecture not in only:
        return f"{quantization} goes with {_any_of(only)} only, not with {architecture}; {ways}"
    return ""


def _possible(capability: str, architecture: str = "") -> tuple[str, ...]:
    """Return the quantizations that go with a capability, and with an architecture if given."""
    generation = _generation(capability)
    return tuple(
        name
        for name in _QUANTIZATIONS
        if generation >= _NEEDED.get(name, _OLDEST)
        and not _left_out(capability, name)
        and (not architecture or architecture in _ARCHITECTURES.get(name, (architecture,)))
    )


def _left_out(capability: str, quantization: str) -> bool:
    since, until, names = _LEFT_OUT
    return quantization in names and since <= _generation(capability) < until


def _generation(capability: str) -> tuple[int, ...]:
    return tuple(int(part) for part in capability.split("."))


def _any_of(names: Sequence[str]) -> str:
    *others, last = names
    return f"{', '.join(others)} or {last}" if others else last
