"""Asking a Triton model over gRPC, and what its errors mean.

Two things that Triton 2.51 does decide how this is written (both were seen):

- Asked for errors as statuses of gRPC (metadata `triton_grpc_error`), it crashes some time after a
  model's error. So an error is text here, and our models put its kind in front of the text.
- A stream that is cancelled between its last response and its end leaves the model in use for
  ever, so that the server cannot stop in time. So a stream is read to its end, unless it is left in
  the middle of an answer.
"""

from collections.abc import AsyncGenerator
from typing import Any

import grpc

from engineshed.telemetry.tracing import TRACEPARENT, current_traceparent, is_exported
from engineshed.triton.refusal import Refusal


class InferenceError(Exception):
    """A model answered with an error, or did not answer to the end."""

    def __init__(self, refusal: Refusal, message: str) -> None:
        super().__init__(message)
        self.refusal = refusal
        self.message = message


async def infer(
    stub: Any,  # noqa: ANN401 - tritonclient's GRPCInferenceServiceStub, which has no types
    request: Any,  # noqa: ANN401 - a ModelInferRequest, likewise
    timeout_secs: float,
) -> AsyncGenerator[Any, None]:
    """Send one request to a decoupled model and yield its responses (ModelInferResponse).

    Close the generator early to cancel the request (`contextlib.aclosing`).

    Raises:
        InferenceError: instead of the rest of the answer.

    """
    request.parameters["triton_enable_empty_final_response"].bool_param = True
    traceparent = current_traceparent()
    metadata = ((TRACEPARENT, traceparent),) if is_exported(traceparent) else ()
    call = stub.ModelStreamInfer(_once(request), timeout=timeout_secs, metadata=metadata)
    error, last = "", None
    try:
        while (message := await call.read()) is not grpc.aio.EOF:
            if message.error_message:
                error = message.error_message
            else:
                last = message.infer_response
                yield last
    except grpc.aio.AioRpcError as failure:
        details = failure.details() or failure.code().name
        raise InferenceError(Refusal.UNAVAILABLE, f"Triton went away: {details}") from failure
    finally:
        call.cancel()  # without effect on a call that is over
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


async def _once(request: Any) -> AsyncGenerator[Any, None]:  # noqa: ANN401 - see `infer`
    yield request
