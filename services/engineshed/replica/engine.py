"""Triton's model as a source of token ids.

Each sequence is a gRPC call of its own, with the tensors of NVIDIA's tensorrtllm back end. Whoever
is cancelled while it reads one cancels the call, and Triton tells the engine.
"""

import struct
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from tritonclient.grpc import service_pb2

from engineshed.triton.engine import MODEL_NAME
from engineshed.triton.infer import InferenceError, infer
from engineshed.triton.refusal import Refusal
from engineshed.triton.streams import Streams

_LONGEST_SECONDS: Final = 24 * 3600.0
"""No answer takes longer. What hangs is noticed by `health`, much earlier."""
_LEAST_TOP_P: Final = 1e-6
"""Leaves the likeliest token alone, as OpenAI's 0 does; to the back end 0 means not set."""

Arrived: TypeAlias = Callable[[list[int]], None]
"""Takes new ids. A call for each response costs less than an iterator on every floor would."""


class EngineError(Exception):
    """The engine did not answer a request to its end; the message is Triton's."""


class EngineUnavailableError(EngineError):
    """Triton cannot be reached, or has no room: the engine works on as much as it can."""


class EngineRefusedError(EngineError):
    """The engine does not take this request."""


_ERRORS: Final = {
    Refusal.INVALID_ARGUMENT: EngineRefusedError,
    Refusal.UNAVAILABLE: EngineUnavailableError,
    Refusal.INTERNAL: EngineError,
}


@dataclass(frozen=True, slots=True)
class Generation:
    """What the engine is asked for: one continuation of one prompt."""

    prompt: Sequence[int]
    max_tokens: int
    temperature: float = 0.0
    """0 takes the likeliest token each time."""
    top_p: float = 1.0
    seed: int | None = None
    """Any integer of 64 bits. None: the engine chooses."""
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0


class Engine:
    """The engine in a Triton on this host."""

    def __init__(self, grpc_port: int, end_id: int | None) -> None:
        """Connect to Triton; `end_id` is the token that ends an answer, if there is one.

        An engine that knows of several ends an answer at any of them.
        """
        self._triton = Streams(grpc_port)
        self._end_id = end_id
        self.gone = False
        """Set it when Triton has ended: then nobody waits for it to have room again."""

    async def generate(self, generation: Generation, request_id: str, arrived: Arrived) -> None:
        """Give new token ids to `arrived` as they come, until the engine ends the sequence.

        Raises:
            EngineUnavailableError: Triton is gone or full.
            EngineRefusedError: the request is not for this engine.
            EngineError: it failed.

        """

        def take(response: Any) -> None:  # noqa: ANN401 - tritonclient is not typed
            if ids := output_ids(response):
                arrived(ids)

        request = build_request(generation, request_id, self._end_id)
        try:
            await infer(self._triton, request, _LONGEST_SECONDS, take)
        except InferenceError as error:
            raise _ERRORS[error.refusal](error.message) from error

    async def close(self) -> None:
        """Cancel what is running and disconnect."""
        await self._triton.close()


def build_request(
    generation: Generation, request_id: str, end_id: int | None
) -> service_pb2.ModelInferRequest:
    """Return Triton's request for `generation`."""
    request = service_pb2.ModelInferRequest(model_name=MODEL_NAME, id=request_id)
    for name in ("output_ids", "sequence_length"):
        request.outputs.add(name=name)

    def scalar(name: str, datatype: str, format_: str, value: object) -> None:
        request.inputs.add(name=name, datatype=datatype, shape=[1, 1])
        request.raw_input_contents.append(struct.pack(format_, value))

    prompt = array("i", generation.prompt)
    request.inputs.add(name="input_ids", datatype="INT32", shape=[1, len(prompt)])
    request.raw_input_contents.append(prompt.tobytes())
    scalar("input_lengths", "INT32", "<i", len(prompt))
    scalar("request_output_len", "INT32", "<i", generation.max_tokens)
    scalar("streaming", "BOOL", "<?", True)
    if end_id is not None:
        scalar("end_id", "INT32", "<i", end_id)
    if generation.temperature == 0:
        scalar("runtime_top_k", "INT32", "<i", 1)
    else:
        scalar("temperature", "FP32", "<f", generation.temperature)
        scalar("runtime_top_p", "FP32", "<f", max(generation.top_p, _LEAST_TOP_P))
        if generation.seed is not None:
            scalar("seed", "UINT64", "<Q", generation.seed % 2**64)
    if generation.presence_penalty:
        scalar("presence_penalty", "FP32", "<f", generation.presence_penalty)
    if generation.frequency_penalty:
        scalar("frequency_penalty", "FP32", "<f", generation.frequency_penalty)
    return request


def output_ids(response: Any) -> list[int]:  # noqa: ANN401 - tritonclient is not typed
    """Return the new ids in a response of Triton; none in an empty one."""
    for output, raw in zip(response.outputs, response.raw_output_contents, strict=True):
        if output.name == "output_ids":
            return memoryview(raw).cast("i").tolist()
    return []
