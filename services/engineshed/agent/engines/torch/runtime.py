"""The model that Triton's Python back end loads: Triton's requests in, Triton's responses out."""

import json
import os
import signal
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import structlog
import torch
import triton_python_backend_utils as triton  # only there in Triton's stub

from engineshed.agent.engines.torch.delivery import Piece
from engineshed.agent.engines.torch.gauges import Gauges
from engineshed.agent.engines.torch.requests import InvalidRequestError
from engineshed.agent.engines.torch.serving import FullError, LoadedEngine
from engineshed.triton.orphan import end_with_server
from engineshed.triton.refusal import Refusal

log = structlog.get_logger()

_STATUS_BROKEN: Final = 70
_CODES: Final = {  # by name: the stub fills its module only after the model's was imported
    Refusal.INVALID_ARGUMENT: "INVALID_ARG",
    Refusal.UNAVAILABLE: "UNAVAILABLE",
    Refusal.INTERNAL: "INTERNAL",
}


class TritonPythonModel:
    """One engine. Triton calls `execute` from one thread and never waits for an answer in it."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the engine that the model's configuration names, and see that it generates."""
        end_with_server()
        if threads := os.environ.get("ENGINESHED_TORCH_THREADS"):
            torch.set_num_threads(int(threads))
        parameters = json.loads(args["model_config"])["parameters"]
        # A handle: once the server is gone, our parent is whoever adopts orphans on this host.
        server = os.pidfd_open(os.getppid())
        fraction = parameters.get("kv_cache_fraction", {}).get("string_value")
        self._engine = LoadedEngine(
            Path(parameters["engine_directory"]["string_value"]),
            on_broken=partial(_end_server, server),
            on_round=Gauges(triton, args["model_name"], args["model_version"]).refresh,
            kv_cache_fraction=float(fraction) if fraction else None,
        )
        self._engine.warm_up()

    def execute(self, requests: list[Any]) -> None:
        """Start on the requests; what cannot be started is answered at once."""
        for request in requests:
            outlet = _ResponseSender(request.get_response_sender())
            try:
                inputs = {each.name(): each.as_numpy() for each in request.inputs()}
                self._engine.submit(inputs, outlet)
            except InvalidRequestError as error:
                outlet.refuse(Refusal.INVALID_ARGUMENT, str(error))
            except FullError as error:
                outlet.refuse(Refusal.UNAVAILABLE, str(error))

    def finalize(self) -> None:
        """Drop what is in flight."""
        self._engine.close()


class _ResponseSender:
    """An outlet that is one of Triton's response senders."""

    def __init__(self, sender: Any) -> None:  # noqa: ANN401 - Triton has no types
        self._sender = sender

    def send(self, piece: Piece, *, final: bool) -> None:
        flags = triton.TRITONSERVER_RESPONSE_COMPLETE_FINAL if final else 0
        if not piece.tokens:
            self._sender.send(flags=flags)
            return
        tokens, likely, total = piece.tokens, piece.log_probabilities, piece.total_log_probability
        outputs = [
            triton.Tensor("output_ids", np.array([[tokens]], dtype=np.int32)),
            triton.Tensor("sequence_length", np.array([[len(tokens)]], dtype=np.int32)),
        ]
        if likely is not None:
            outputs += [
                triton.Tensor("output_log_probs", np.array([[likely]], dtype=np.float32)),
                triton.Tensor("cum_log_probs", np.array([[total]], dtype=np.float32)),
            ]
        self._sender.send(triton.InferenceResponse(outputs), flags=flags)

    def refuse(self, kind: Refusal, message: str) -> None:
        """Answer with an error; its text says the kind, since over gRPC there is nothing else."""
        error = triton.TritonError(kind.text(message), getattr(triton.TritonError, _CODES[kind]))
        self._sender.send(
            triton.InferenceResponse(error=error), flags=triton.TRITONSERVER_RESPONSE_COMPLETE_FINAL
        )

    def is_cancelled(self) -> bool:
        return bool(self._sender.is_cancelled())


def _end_server(server: int) -> None:
    """End the server, by its pidfd, with this stub, for whoever started it to see.

    With its stub gone, Triton 2.51 would go on saying that it is ready, keep the requests in flight
    waiting for ever, and refuse new ones.
    """
    log.error("engine_broken")
    with suppress(ProcessLookupError):  # it has ended by itself
        signal.pidfd_send_signal(server, signal.SIGKILL)
    os._exit(_STATUS_BROKEN)
