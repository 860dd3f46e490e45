"""Asking a Triton model over gRPC, and what its errors mean.

Two things that Triton 2.51 does decide how this is written (both were seen):

- Asked for errors as statuses of gRPC (metadata `triton_grpc_error`), it crashes some time after a
  model's error. So an error is text here, and our models put its kind in front of the text.
- A stream that is cancelled between its last response and its end leaves the model in use for
  ever, so that the server cannot stop in time. So a stream is read to its end, unless it is left in
  the middle of an answer.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from tritonclient.grpc.service_pb2 import ModelStreamInferResponse

from engineshed.telemetry.tracing import TRACEPARENT, current_traceparent, is_exported
from engineshed.triton.refusal import Refusal
from engineshed.triton.streams import Streams, TritonGoneError


class InferenceError(Exception):
    """A model answered with an error, or did not answer to the end."""

    def __init__(self, refusal: Refusal, message: str) -> None:
        super().__init__(message)
        self.refusal = refusal
        self.message = message


async def infer(
    triton: Streams,
    request: Any,  # noqa: ANN401 - a ModelInferRequest of tritonclient, which has no types
    timeout_secs: float,
    take: Callable[[Any], None],
) -> None:
    """Send one request to a decoupled model; give its responses (ModelInferResponse) to `take`.

    Cancelling it cancels the request.

    Raises:
        InferenceError: instead of the rest of the answer.

    """
    request.parameters["triton_enable_empty_final_response"].bool_param = True
    traceparent = current_traceparent()
    metadata = {TRACEPARENT: traceparent} if is_exported(traceparent) else {}
    error, last = "", None

    def read(data: bytes) -> None:
        nonlocal error, last
        message = ModelStreamInferResponse.FromString(data)
        if message.error_message:
            error = message.error_message
        else:
            last = message.infer_response
            take(last)

    try:
        async with asyncio.timeout(timeout_secs):
            await triton.call(request.SerializeToString(), read, metadata)
    except TimeoutError as late:
        message = f"Triton has not ended the answer in {timeout_secs:g} s"
        raise InferenceError(Refusal.UNAVAILABLE, message) from late
    except TritonGoneError as gone:
        raise InferenceError(Refusal.UNAVAILABLE, f"Triton went away: {gone}") from gone
    if error:
        raise read_error(error)
    if last is None or not last.parameters["triton_final_response"].bool_param:
        raise InferenceError(Refusal.INTERNAL, "Triton ended the answer early")


def read_error(text: str) -> InferenceError:
    """Return the error that a model's error text stands for."""
    kind, colon, message = text.partition(": ")
    if colon and kind in Refusal.__members__:
        return InferenceError(Refusal[kind], message)
    return InferenceError(Refusal.INTERNAL, text)
