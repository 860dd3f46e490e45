"""A loaded engine: it admits requests, has them decoded, and has the answers delivered."""

import itertools
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np

from engineshed.agent.engines.torch.continuous import ContinuousDecoder
from engineshed.agent.engines.torch.delivery import Courier, Job, Outlet
from engineshed.agent.engines.torch.generation import Decoder
from engineshed.agent.engines.torch.loading import load_model
from engineshed.agent.engines.torch.requests import Tensors, flag, read_request
from engineshed.agent.engines.torch.sequential import SequentialDecoder
from engineshed.triton.engine import EngineManifest

_WARM_UP_SECONDS: Final = 300.0


class FullError(Exception):
    """The engine works on as many requests as it can."""


class LoadedEngine:
    """An engine in memory, ready for requests.

    Args:
        engine: its folder.
        on_broken: called when no request can succeed any more; it should end the process.

    """

    def __init__(self, engine: Path, on_broken: Callable[[], None]) -> None:
        self.manifest = EngineManifest.read(engine)
        self._decoder = _decoder(engine, self.manifest)
        self._on_broken = on_broken
        self._ids = map(str, itertools.count())
        self._lock = threading.Lock()
        self._in_flight: dict[str, Job] = {}
        self._courier = Courier(self._in_flight, self._release, self._after_round)

    def submit(self, tensors: Tensors, outlet: Outlet) -> None:
        """Start on the request with these inputs; its answer goes to `outlet`.

        Raises:
            InvalidRequestError: it cannot be honoured.
            FullError: `max_concurrent` are in flight already.

        """
        generation = read_request(next(self._ids), tensors, self.manifest)
        streaming = flag(tensors, "streaming", default=False)
        job = Job(generation.request_id, outlet, self._courier, streaming=streaming)
        with self._lock:
            if self._is_full():
                self._courier.drop_cancelled()  # it asks now and then only
            if self._is_full():
                raise FullError(
                    f"the engine works on {self.manifest.max_concurrent} requests already; "
                    "try again when one of them is done"
                )
            self._in_flight[generation.request_id] = job
        self._decoder.submit(generation, job)

    def warm_up(self) -> None:
        """Generate two tokens, so that the first request is not slow.

        Raises:
            RuntimeError: the engine cannot even do that.

        """
        outlet = _WarmUp()
        inputs = {"input_ids": [0], "input_lengths": [1], "request_output_len": [2]}
        self.submit({name: np.array(value) for name, value in inputs.items()}, outlet)
        outlet.wait()

    def close(self) -> None:
        """Drop what is in flight and end the threads."""
        self._decoder.close()
        self._courier.stop()

    def _is_full(self) -> bool:
        return len(self._in_flight) >= self.manifest.max_concurrent

    def _release(self, job: Job, cancelled: bool) -> None:
        self._in_flight.pop(job.request_id, None)
        if cancelled:
            self._decoder.cancel(job.request_id)

    def _after_round(self) -> None:
        if self._decoder.broken and not self._in_flight:
            self._on_broken()


class _WarmUp:
    """An outlet that is waited for."""

    def __init__(self) -> None:
        self._done = threading.Event()
        self._error = ""

    def send(self, tokens: list[int], *, final: bool) -> None:  # noqa: ARG002 - the interface
        if final:
            self._done.set()

    def fail(self, message: str) -> None:
        self._error = message
        self._done.set()

    def is_cancelled(self) -> bool:
        return False

    def wait(self) -> None:
        if not self._done.wait(_WARM_UP_SECONDS):
            raise RuntimeError("the engine does not answer")
        if self._error:
            raise RuntimeError(f"the engine does not generate: {self._error}")


def _decoder(engine: Path, manifest: EngineManifest) -> Decoder:
    device = "cpu" if manifest.hardware == "cpu" else "cuda"
    model, _ = load_model(engine / manifest.tokenizer, manifest.dtype, device)
    match manifest.decoding:
        case "continuous":
            return ContinuousDecoder(model, manifest.max_context, manifest.max_concurrent)
        case "sequential":
            return SequentialDecoder(model, manifest.max_concurrent)
        case "exclusive":
            return SequentialDecoder(model, 1)
