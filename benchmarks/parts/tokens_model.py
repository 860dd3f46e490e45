"""A Triton model with the tensors of an engine that computes nothing.

The prompt's bytes are the milliseconds between two tokens, in decimal digits; "0" is as fast as
Triton takes them. One thread serves all requests, since threads that fight for the interpreter
cost more than what is measured; and to ask whether a request is cancelled is a round trip to the
server, so that is done now and then.
"""

import heapq
import itertools
import queue
import threading
import time
from typing import Any, Final

import numpy as np
import triton_python_backend_utils as triton

from engineshed.triton.orphan import end_with_server

LOOK_EVERY: Final = 32
"""Tokens of an answer between two looks whether it is cancelled."""
TEXT: Final = b"Every engine has a shed, and in it steam is kept up through the night. "


class TritonPythonModel:
    """The model."""

    def initialize(self, args: dict[str, str]) -> None:  # noqa: ARG002 - the interface
        """Start the thread."""
        end_with_server()
        self._arrived: queue.SimpleQueue[Any] = queue.SimpleQueue()
        threading.Thread(target=self._serve, daemon=True).start()

    def execute(self, requests: list[Any]) -> None:
        """Take in requests."""
        for request in requests:
            inputs = {each.name(): each.as_numpy().ravel() for each in request.inputs()}
            digits = inputs["input_ids"].astype(np.uint8).tobytes().strip(b"\0")
            gap = int(digits or 0) / 1000  # a canary is a zero byte
            left = int(inputs["request_output_len"][0])
            self._arrived.put((request.get_response_sender(), gap, left))

    def _serve(self) -> None:
        responses = [_response(token) for token in TEXT]
        running: list[tuple[float, int, Any, float, int]] = []  # by when the next token is due
        numbers = itertools.count()
        while True:
            timeout = max(0.0, running[0][0] - time.monotonic()) if running else None
            try:
                sender, gap, left = self._arrived.get(timeout != 0, timeout)
                heapq.heappush(running, (time.monotonic(), next(numbers), sender, gap, left))
            except queue.Empty:
                pass
            if not running or running[0][0] > time.monotonic():
                continue
            due, _, sender, gap, left = running[0]
            if left % LOOK_EVERY == 0 and sender.is_cancelled():
                left = 0
            if left:
                sender.send(responses[left % len(responses)])
                # Behind all others that are due: `gap` 0 takes turns too.
                due = due + gap if gap else time.monotonic()
                heapq.heapreplace(running, (due, next(numbers), sender, gap, left - 1))
            else:
                heapq.heappop(running)
                sender.send(flags=triton.TRITONSERVER_RESPONSE_COMPLETE_FINAL)


def _response(token: int) -> Any:  # noqa: ANN401 - the stub's module has no types
    return triton.InferenceResponse(
        [
            triton.Tensor("output_ids", np.array([[[token]]], np.int32)),
            triton.Tensor("sequence_length", np.array([[1]], np.int32)),
        ]
    )
