"""The tensors of a Triton model: which it takes, and requests that hold no others.

NVIDIA's models got and lost inputs, and renamed some, from release to release. So an input is named
here by what it means, and a model is asked once, after it was loaded, what it has. Pure.
"""

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from tritonclient.grpc import service_pb2

from engineshed.triton.control import Tensor
from engineshed.triton.engine import MODEL_NAME

_OLD_NAMES: Final = {"seed": "random_seed", "min_tokens": "min_length"}
_FORMATS: Final = {"INT32": "<i", "INT64": "<q", "UINT64": "<Q", "FP32": "<f", "BOOL": "<?"}


class UnfitModelError(Exception):
    """The model lacks tensors without which it cannot be served; the message names them."""


@dataclass(frozen=True, slots=True)
class Input:
    """One input that the model has."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    """Of a single value."""
    pack: Callable[[Any], bytes]
    """Makes bytes of a single value."""

    def add(self, request: service_pb2.ModelInferRequest, value: object) -> None:
        """Add it to a request, with one value."""
        self.add_bytes(request, self.shape, self.pack(value))

    def add_bytes(
        self, request: service_pb2.ModelInferRequest, shape: Sequence[int], data: bytes
    ) -> None:
        """Add it to a request, with values of some shape."""
        request.inputs.add(name=self.name, datatype=self.datatype, shape=shape)
        request.raw_input_contents.append(data)


class Inputs:
    """The inputs of a model, by what they mean: the newest names of NVIDIA's."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        there = {tensor.name: _input(tensor) for tensor in tensors}
        renamed = {new: there[old] for new, old in _OLD_NAMES.items() if old in there}
        self._inputs: Mapping[str, Input] = renamed | there

    def __contains__(self, name: str) -> bool:
        return name in self._inputs

    def __getitem__(self, name: str) -> Input:
        return self._inputs[name]

    def missing(self, *names: str) -> list[str]:
        """Return those of `names` that the model does not have."""
        return [name for name in names if name not in self]

    def offered(self, needs: Mapping[str, Sequence[str]]) -> frozenset[str]:
        """Return the parameters for which the model has all inputs that they need."""
        return frozenset(name for name, inputs in needs.items() if not self.missing(*inputs))

    def put(self, request: service_pb2.ModelInferRequest, name: str, value: object) -> None:
        """Add an input with one value to a request, if the model has that input."""
        if (one := self._inputs.get(name)) is not None:
            one.add(request, value)


def new_request(outputs: Sequence[str]) -> service_pb2.ModelInferRequest:
    """Return a request for these outputs, without any inputs yet."""
    request = service_pb2.ModelInferRequest(model_name=MODEL_NAME)
    for name in outputs:
        request.outputs.add(name=name)
    return request


def outputs_of(response: Any) -> dict[str, bytes]:  # noqa: ANN401 - tritonclient is not typed
    """Return the raw outputs in a response of Triton, by name."""
    raw = response.raw_output_contents
    return {output.name: raw[i] for i, output in enumerate(response.outputs)}


def text_of(data: bytes) -> str:
    """Return the first string in the bytes of an output."""
    (length,) = struct.unpack_from("<I", data)
    return data[4 : 4 + length].decode(errors="replace")


def _input(tensor: Tensor) -> Input:
    shape = (1,) * len(tensor.shape)
    if tensor.datatype == "BYTES":
        return Input(tensor.name, tensor.datatype, shape, _pack_text)
    # Those of other types are none that we use.
    format_ = struct.Struct(_FORMATS.get(tensor.datatype, "<i"))
    return Input(tensor.name, tensor.datatype, shape, format_.pack)


def _pack_text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<I", len(data)) + data
