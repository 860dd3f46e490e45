"""The life of a replica: listen, load, serve, end.

It listens first, so that its agent can ask how far it is. It ends because it was told to, at once
or once it has no request (exit status 0), or because it cannot serve (1); status.json says why.
"""

import asyncio
import os
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Final

import structlog

from engineshed.api.replica.v1.replica_service_pb2 import Phase, ReplicaSpec, ReplicaState
from engineshed.api.replica.v1.replica_service_pb2_grpc import add_ReplicaServiceServicer_to_server
from engineshed.replica.admission import Admission
from engineshed.replica.answering import Answering, Model
from engineshed.replica.api import Api
from engineshed.replica.engine import Engine, EngineError, EngineUnavailableError
from engineshed.replica.engines import connect
from engineshed.replica.errors import unavailable
from engineshed.replica.failure import ReplicaFailedError
from engineshed.replica.gauges import read_gauges
from engineshed.replica.gpu_metrics import GpuMetrics
from engineshed.replica.health import EngineWatch, canary, patiently
from engineshed.replica.metrics import Metrics
from engineshed.replica.prompts import Prompts
from engineshed.replica.service import ACCESS, ReplicaServicer, SecretAuthenticator
from engineshed.replica.serving import Serving
from engineshed.replica.spec import max_requests
from engineshed.replica.status import Status
from engineshed.replica.tokenizer import Tokenizer, TokenizerLoadError
from engineshed.replica.triton import TritonServer
from engineshed.replica.triton_log import FILE_NAME as TRITON_LOG
from engineshed.replica.web import WebServer
from engineshed.rpc import RpcServer
from engineshed.runtime import supervise
from engineshed.runtime.tls import Tls
from engineshed.triton.engine import EngineManifest

_FIRST_ANSWER_SECONDS: Final = 600
"""The first one may compile kernels."""
_HEAR_SECONDS: Final = 3.0
"""How long a retiring replica waits for its agent, which asks every second, to hear of it."""
_FINISH_SECONDS: Final = 60.0
"""How long requests in flight of a retiring replica may take. systemd waits 90 s, then kills."""
_FAREWELL_SECONDS: Final = 3.0
"""How long requests in flight may take to hear that the replica ends."""

log = structlog.get_logger()


class Front:
    """One replica; run it once."""

    def __init__(
        self,
        directory: Path,
        spec: ReplicaSpec,
        manifest: EngineManifest,
        status: Status,
        tls: Tls | None,
    ) -> None:
        self._directory = directory
        self._spec = spec
        self._manifest = manifest
        self._status = status
        self._admission = Admission(
            max_requests(spec, manifest.max_concurrent), manifest.max_concurrent
        )
        self._gpus = GpuMetrics(os.environ.get("CUDA_VISIBLE_DEVICES", ""))
        self._metrics = Metrics(spec.routing_key, self._admission, self._gpus)
        self._api = Api(spec.routing_key, spec.secret, self._admission, self.metrics)
        self._web = WebServer(self._api, spec.listen_host, tls)
        self._rpc = RpcServer(
            f"{self._web.host}:0", SecretAuthenticator(spec.secret), access=ACCESS, tls=tls
        )
        self._rpc.add(add_ReplicaServiceServicer_to_server, ReplicaServicer(self))
        self._triton: TritonServer | None = None
        self._engine: Engine | None = None
        self._serving: Serving | None = None
        self._draining = False
        self._retiring = asyncio.Event()
        self._heard = asyncio.Event()

    async def run(self, stop: asyncio.Event) -> int:
        """Serve until `stop` is set or the replica fails; return the process's exit status."""
        failed = True
        try:
            await self._listen()
            loops = {
                "replica": self._live(stop),
                "http": self._web.run(),
                "retirement": self._finish(stop),
            }
            await supervise(stop, loops)
            failed = False
        except ReplicaFailedError as failure:
            self._fail(failure)
        except Exception as error:
            log.exception("replica_failed")
            self._fail(ReplicaFailedError("INTERNAL", f"{type(error).__name__}: {error}"))
        await self._end()
        phase = self.state.phase if failed else Phase.PHASE_STOPPED
        self._status.change(phase=phase, triton_pid=0)
        return int(failed)

    @property
    def state(self) -> ReplicaState:
        """What the replica is doing."""
        return self._status.state

    @property
    def in_flight(self) -> int:
        """How many requests it has now."""
        return self._admission.in_flight

    @property
    def in_flight_seconds(self) -> float:
        """How long all its requests together have been in flight."""
        return self._admission.in_flight_seconds

    @property
    def idle_seconds(self) -> float | None:
        """Since when it has no request, or is ready; None before that, 0 while it has some."""
        return self._admission.idle_seconds

    def drain(self) -> None:
        """Take no more requests; those in flight go on."""
        self._draining = True
        self._admission.close(unavailable("This replica is being drained. Try again.", "draining"))
        if self.state.phase in {Phase.PHASE_LOADING, Phase.PHASE_READY}:
            self._status.change(phase=Phase.PHASE_DRAINING)

    def retire(self) -> None:
        """Drain, then end, as soon as no request is left: the host shuts down."""
        self.drain()
        self._retiring.set()

    def heard(self) -> None:
        """Take note that the agent knows what the replica is doing."""
        if self._retiring.is_set():
            self._heard.set()

    async def metrics(self) -> tuple[str, str]:
        """Return the front's metrics and Triton's."""
        triton, _ = await asyncio.gather(self._look_at_engine(), self._gpus.look())
        return self._metrics.text(), triton

    async def _finish(self, stop: asyncio.Event) -> None:
        """Set `stop` when the replica was to retire and nobody needs it any more.

        Until its agent has heard of it, callers still come: they are told to go elsewhere.
        """
        await self._retiring.wait()
        await _wait(self._heard.wait(), _HEAR_SECONDS)
        if not await _wait(self._admission.empty(), _FINISH_SECONDS):
            log.warning("requests_unfinished", in_flight=self.in_flight)
        stop.set()

    async def _listen(self) -> None:
        self._web.start()
        control_address = await self._rpc.start()
        self._status.change(
            http_url=self._web.url,
            control_address=control_address,
            engine_digest=self._manifest.digest,
        )

    async def _live(self, stop: asyncio.Event) -> None:
        """Load, then serve until told to stop.

        Raises:
            ReplicaFailedError: it cannot, or can no more.

        """
        triton, tokenizer = await self._load()
        self._engine = connect(triton.ports.grpc, await triton.tensors(), self._manifest, tokenizer)
        self._serving = serving = Serving(self._engine, self._admission)
        self._status.progress(0.9, "generating a first token")
        try:
            await triton.unless_it_ends(patiently(canary(serving), _FIRST_ANSWER_SECONDS))
        except (EngineError, TimeoutError) as error:
            raise ReplicaFailedError(
                "CANARY_FAILED",
                "the engine was loaded, but fails a test request: "
                f"{error or f'no answer in {_FIRST_ANSWER_SECONDS} s'}",
            ) from error
        await self._look_at_engine()  # the state says from it how much the engine's cache holds
        # An iteration of a compiled engine takes milliseconds; one on a CPU may take a minute.
        compiled = self._manifest.engine_kind == "tensorrt"
        watch = EngineWatch(serving, self._iteration if compiled else None)
        prompts = Prompts(
            tokenizer, self._manifest, self._engine.offers, takes_ids=self._engine.takes_ids
        )
        self._open(prompts, serving, watch)
        await supervise(stop, {"triton": triton.watch(), "engine": watch.watch()})

    async def _iteration(self) -> float | None:
        """Return how many iterations the engine has done, if it tells."""
        await self._look_at_engine()
        return self._metrics.engine.iteration

    async def _look_at_engine(self) -> str:
        """Take note of what Triton's metrics tell of the engine; return them."""
        triton = await self._triton.metrics() if self._triton else ""
        self._metrics.engine = engine = read_gauges(triton)
        if (tokens := engine.kv_cache_tokens or 0) > self.state.kv_cache_tokens:
            self._status.change(kv_cache_tokens=tokens)
        return triton

    async def _load(self) -> tuple[TritonServer, Tokenizer]:
        """Start Triton with the engine, and load the tokenizer meanwhile."""
        triton = asyncio.create_task(self._load_triton())
        tokenizer = asyncio.create_task(self._load_tokenizer())
        both = {triton, tokenizer}
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_EXCEPTION)
            for task in both:
                if task.done():
                    task.result()
            return triton.result(), tokenizer.result()
        finally:
            for task in both:
                task.cancel()
            await asyncio.gather(*both, return_exceptions=True)

    async def _load_triton(self) -> TritonServer:
        self._status.progress(0.05, "starting Triton")
        self._triton = await TritonServer.start(
            self._manifest,
            Path(self._spec.model_repository),
            Path(self._spec.triton_directory),
            self._directory / TRITON_LOG,
            self._spec.threads,
        )
        self._status.change(triton_pid=self._triton.pid)
        self._status.progress(0.2, "loading the engine")
        await self._triton.load()
        return self._triton

    async def _load_tokenizer(self) -> Tokenizer:
        if not self._manifest.tokenizer:
            raise ReplicaFailedError(
                "NO_TOKENIZER",
                "the checkpoint has no tokenizer, so text cannot be made of its tokens; add the "
                "tokenizer's files and register it again",
                retryable=False,
            )
        folder = Path(self._spec.engine_directory) / self._manifest.tokenizer
        try:
            return await asyncio.to_thread(
                Tokenizer.load,
                folder,
                self._manifest.vocab_size,
                self._manifest.max_context,
                for_text=self._manifest.interface == "text",
            )
        except TokenizerLoadError as error:
            raise ReplicaFailedError("TOKENIZER_INVALID", str(error), retryable=False) from error

    def _open(self, prompts: Prompts, serving: Serving, watch: EngineWatch) -> None:
        digest = self._manifest.digest.removeprefix("sha256:")
        model = Model(self._spec.routing_key, f"fp_{digest[:12]}", prompts, serving)
        self._api.answering = Answering(model, self._admission, self._metrics, watch.suspect)
        self._status.progress(1.0, "")
        if not self._draining:
            self._admission.open()
            self._status.change(phase=Phase.PHASE_READY)

    def _fail(self, failure: ReplicaFailedError) -> None:
        if self._engine:
            self._engine.gone = True
        self._status.change(
            phase=Phase.PHASE_FAILED,
            code=failure.code,
            reason=failure.message,
            retryable=failure.retryable,
        )

    async def _end(self) -> None:
        """Tell those who wait, close everything, and leave no process behind."""
        self._admission.close(unavailable("This replica is ending. Try again.", "ending"))
        if self._serving:
            self._serving.fail_all(EngineUnavailableError("the replica is ending"))
        if not await _wait(self._admission.empty(), _FAREWELL_SECONDS):
            log.warning("requests_cut_off", in_flight=self.in_flight)
        await self._web.stop()
        await self._rpc.stop(grace_seconds=0.5)
        if self._engine:
            await self._engine.close()
        if self._triton:
            await self._triton.stop()


async def _wait(what: Coroutine[Any, Any, object], seconds: float) -> bool:
    """Return whether it came to be within so many seconds."""
    try:
        async with asyncio.timeout(seconds):
            await what
    except TimeoutError:
        return False
    return True
