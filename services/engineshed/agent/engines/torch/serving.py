"""A loaded engine: it admits requests, has them decoded, and has the answers delivered."""

import itertools
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
import structlog

from engineshed.agent.engines.torch.continuous import BatchLimits, ContinuousDecoder
from engineshed.agent.engines.torch.delivery import Courier, Job, Outlet, Piece
from engineshed.agent.engines.torch.generation import Activity, Decoder, Generation
from engineshed.agent.engines.torch.guiding import Guides
from engineshed.agent.engines.torch.loading import load_model
from engineshed.agent.engines.torch.requests import (
    InvalidRequestError,
    Tensors,
    flag,
    read_request,
)
from engineshed.agent.engines.torch.sequential import SequentialDecoder
from engineshed.triton.engine import EngineManifest
from engineshed.triton.refusal import Refusal

log = structlog.get_logger()

_WARM_UP_SECONDS: Final = 300.0


class FullError(Exception):
    """The engine works on as many requests as it can."""


class LoadedEngine:
    """An engine in memory, ready for requests.

    Args:
        engine: its folder.
        on_broken: called when no request can succeed any more; it should end the process.
        on_round: called now and then, while there are requests and while there are none.
        kv_cache_fraction: the share that keys and values take of what is free of a GPU's memory
            once the model is loaded; None: the usual one.

    """

    def __init__(
        self,
        engine: Path,
        on_broken: Callable[[], None],
        on_round: Callable[["LoadedEngine"], None] = lambda _: None,
        kv_cache_fraction: float | None = None,
    ) -> None:
        self.manifest = EngineManifest.read(engine)
        self._decoder = _decoder(engine, self.manifest, kv_cache_fraction)
        self._guides = Guides(engine / self.manifest.tokenizer, self.manifest)
        # Beside whoever submits, who has other requests to submit.
        self._compiler = ThreadPoolExecutor(1, thread_name_prefix="guides")
        self._on_broken = on_broken
        self._on_round = on_round
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
        if generation.guide is None:
            self._start(generation, job)
        else:
            self._compiler.submit(self._start_guided, generation, job)

    @property
    def in_flight(self) -> int:
        """How many requests are not over."""
        return len(self._in_flight)

    @property
    def activity(self) -> Activity:
        """What its decoder is doing."""
        return self._decoder.activity

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
        self._compiler.shutdown(cancel_futures=True)
        self._decoder.close()
        self._courier.stop()

    def _start_guided(self, generation: Generation, job: Job) -> None:
        assert generation.guide is not None, "that is why it comes here"
        try:
            constraint = self._guides.constraint(
                generation.guide, len(generation.prompt), on_error=job.fail
            )
        except InvalidRequestError as error:
            job.refuse(Refusal.INVALID_ARGUMENT, str(error))
        except Exception as error:  # whatever it is, somebody waits to hear of it
            log.exception("guide_not_compiled", request_id=job.request_id)
            job.fail(f"{type(error).__name__}: {error}")
        else:
            self._start(replace(generation, constraint=constraint), job)

    def _start(self, generation: Generation, job: Job) -> None:
        self._decoder.submit(generation, job)
        if job.request_id not in self._in_flight:  # it was cancelled before the decoder had it
            self._decoder.cancel(job.request_id)

    def _is_full(self) -> bool:
        return len(self._in_flight) >= self.manifest.max_concurrent

    def _release(self, job: Job, cancelled: bool) -> None:
        self._in_flight.pop(job.request_id, None)
        if cancelled:
            self._decoder.cancel(job.request_id)

    def _after_round(self) -> None:
        if self._decoder.broken and not self._in_flight:
            self._on_broken()
        try:
            self._on_round(self)
        except Exception:  # answers must go out, whatever comes of this
            log.exception("round_failed")


class _WarmUp:
    """An outlet that is waited for."""

    def __init__(self) -> None:
        self._done = threading.Event()
        self._error = ""

    def send(self, piece: Piece, *, final: bool) -> None:  # noqa: ARG002 - the interface
        if final:
            self._done.set()

    def refuse(self, kind: Refusal, message: str) -> None:  # noqa: ARG002 - the interface
        self._error = message
        self._done.set()

    def is_cancelled(self) -> bool:
        return False

    def wait(self) -> None:
        if not self._done.wait(_WARM_UP_SECONDS):
            raise RuntimeError("the engine does not answer")
        if self._error:
            raise RuntimeError(f"the engine does not generate: {self._error}")


def _decoder(engine: Path, manifest: EngineManifest, kv_cache_fraction: float | None) -> Decoder:
    device = "cpu" if manifest.hardware == "cpu" else "cuda"
    model, _ = load_model(engine / manifest.tokenizer, manifest.dtype, device)
    match manifest.decoding:
        case "continuous":
            limits = BatchLimits(
                manifest.max_context,
                manifest.max_concurrent,
                manifest.max_batch_tokens or None,
                kv_cache_fraction,
            )
            return ContinuousDecoder(model, limits)
        case "sequential":
            return SequentialDecoder(model, manifest.max_concurrent)
        case "exclusive":
            return SequentialDecoder(model, 1)
