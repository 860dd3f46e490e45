"""From a parsed request to the last byte of its answer.

An error before the first byte has a status of its own; after it, the stream carries an `error`
event and ends without `[DONE]`.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Generic, TypeVar

import structlog
from ulid import ULID

from engineshed.replica.admission import Admission
from engineshed.replica.bodies import (
    DONE,
    Bodies,
    ChatBodies,
    Choice,
    CompletionBodies,
    Head,
    Usage,
)
from engineshed.replica.engine import EngineError, EngineRefusedError, EngineUnavailableError
from engineshed.replica.errors import ApiError, engine_failed, invalid, unavailable
from engineshed.replica.exchange import ClientGoneError, Exchange
from engineshed.replica.metrics import Metrics
from engineshed.replica.prompts import Prompts, Task
from engineshed.replica.requests import ChatRequest, CompletionRequest, GenerationRequest, parse
from engineshed.replica.serving import Piece, Run, Serving
from engineshed.telemetry.tracing import start_span

R = TypeVar("R", bound=GenerationRequest)

CLIENT_GONE: Final = "client_gone"
"""What metrics and logs call a request whose client went away."""
_LARGE_BODY: Final = 256 * 1024
"""Bytes of a body from which on parsing it would hold up others."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Model:
    """What is served, once it is loaded."""

    name: str
    """The routing key, which requests name."""
    system_fingerprint: str
    prompts: Prompts
    serving: Serving


@dataclass(frozen=True, slots=True)
class Endpoint(Generic[R]):
    """One way to ask for answers."""

    operation: str
    """As OpenTelemetry names it."""
    request: type[R]
    bodies: type[Bodies]
    task: Callable[[Prompts, R], Awaitable[Task]]


CHAT: Final = Endpoint("chat", ChatRequest, ChatBodies, Prompts.chat)
COMPLETION: Final = Endpoint(
    "text_completion", CompletionRequest, CompletionBodies, Prompts.completion
)


class Answering:
    """Answers requests with one model, as many at once as are admitted."""

    def __init__(
        self,
        model: Model,
        admission: Admission,
        metrics: Metrics,
        on_engine_error: Callable[[], None],
    ) -> None:
        """Be ready; `on_engine_error` is called when the engine failed a request."""
        self._model = model
        self._admission = admission
        self._metrics = metrics
        self._on_engine_error = on_engine_error

    async def answer(self, exchange: Exchange, endpoint: Endpoint[R]) -> None:
        """Answer one request.

        Raises:
            ApiError: it cannot be answered, and nothing was sent yet.
            ClientGoneError: nobody is left to answer.

        """
        request = await _parsed(endpoint.request, await exchange.body())
        if request.model not in {None, self._model.name}:
            raise ApiError(
                404,
                f"There is no model {request.model!r} here; this is {self._model.name!r}.",
                code="model_not_found",
                param="model",
            )
        with (
            self._admission.admit(),
            _Report(exchange, endpoint.operation, self._model.name, self._metrics) as report,
        ):
            await _while_there(exchange, self._generate(exchange, endpoint, request, report))

    async def _generate(
        self, exchange: Exchange, endpoint: Endpoint[R], request: R, report: "_Report"
    ) -> None:
        model = self._model
        task = await endpoint.task(model.prompts, request)
        head = Head(
            id=f"{endpoint.bodies.ID_PREFIX}{ULID()}",
            created=int(time.time()),
            model=model.name,
            system_fingerprint=model.system_fingerprint,
        )
        bodies = endpoint.bodies(head, with_usage=request.include_usage)
        send = _stream if request.stream else _send_whole
        async with model.serving.start(task, exchange.request_id) as run:
            report.watch(task, run)
            try:
                await send(exchange, bodies, report, run)
            except ClientGoneError:
                raise
            except Exception as error:
                failure = self._explain(error, exchange.request_id)
                if not exchange.status:
                    raise failure from error
                report.error = failure.code
                await exchange.write(b"data: " + failure.body() + b"\n\n", more=False)

    def _explain(self, error: Exception, request_id: str) -> ApiError:
        if not isinstance(error, EngineError):
            log.error("answer_failed", request_id=request_id, exc_info=error)
            return engine_failed(f"Internal error; the request id is {request_id}.")
        log.warning("engine_error", request_id=request_id, reason=str(error))
        if isinstance(error, EngineRefusedError):
            return invalid(
                f"The engine refuses the request: {error}",
                param=error.param,
                code="engine_refused",
            )
        self._on_engine_error()
        if isinstance(error, EngineUnavailableError):
            return unavailable("The engine is not available now. Try again.", "engine_unavailable")
        return engine_failed(f"The engine failed; the request id is {request_id}.")


class _Report:
    """What there is to tell of a request when it is over, to metrics and log."""

    def __init__(self, exchange: Exchange, operation: str, model: str, metrics: Metrics) -> None:
        self._request_id = exchange.request_id
        self._operation = operation
        self._model = model
        traceparent = (exchange.header(b"traceparent") or b"").decode("latin-1")
        self._span = start_span(f"{operation} {model}", traceparent)
        self._metrics = metrics
        self._began = time.monotonic()
        self._first: float | None = None
        self._task: Task | None = None
        self._run: Run | None = None
        self.error = ""

    def watch(self, task: Task, run: Run) -> None:
        """Take note of what the request asks for, and of who works on it."""
        self._task, self._run = task, run
        self._span.event("tokenized")

    def first_token(self) -> None:
        """Take note that there is a token now, if it is the first."""
        if self._first is None:
            self._first = time.monotonic() - self._began
            self._span.event("first token")

    def usage(self) -> Usage:
        """Return the tokens so far."""
        if self._task is None or self._run is None:
            return Usage(0, 0)
        return Usage(self._task.prompt_tokens, self._run.tokens)

    def __enter__(self) -> "_Report":
        self._span.enter()
        return self

    def __exit__(
        self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None
    ) -> None:
        seconds = time.monotonic() - self._began
        outcome = _name_of(error) if error else self.error
        usage = self.usage()
        self._metrics.observe(
            self._operation,
            seconds=seconds,
            first_token_seconds=self._first,
            usage=usage,
            sequences=len(self._task.generations) if self._task else 1,
            error=outcome,
        )
        self._span.end(
            {
                "gen_ai.operation.name": self._operation,
                "gen_ai.request.model": self._model,
                "gen_ai.usage.input_tokens": usage.prompt_tokens,
                "gen_ai.usage.output_tokens": usage.completion_tokens,
                "engineshed.request_id": self._request_id,
            },
            outcome,
        )
        log.info(
            "request",
            request_id=self._request_id,
            operation=self._operation,
            error=outcome,
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            first_token_seconds=round(self._first, 4) if self._first is not None else None,
            seconds=round(seconds, 4),
        )


def _name_of(error: BaseException) -> str:
    if isinstance(error, ApiError):
        return error.code
    if isinstance(error, (ClientGoneError, asyncio.CancelledError)):
        return CLIENT_GONE
    return type(error).__name__


async def _send_whole(exchange: Exchange, bodies: Bodies, report: _Report, run: Run) -> None:
    told: list[list[Piece]] = [[] for _ in range(run.size)]
    while pieces := await run.news():
        report.first_token()
        for piece in pieces:
            told[piece.index].append(piece)
    choices = [_choice(pieces, scored=run.scored) for pieces in told]
    await exchange.respond(200, bodies.whole(choices, report.usage()))


def _choice(pieces: Sequence[Piece], *, scored: bool) -> Choice:
    """Join all pieces of a choice."""
    last = pieces[-1]
    scores = [score for piece in pieces for score in piece.scores] if scored else None
    return Choice(last.index, "".join([piece.text for piece in pieces]), last.finish_reason, scores)


async def _stream(exchange: Exchange, bodies: Bodies, report: _Report, run: Run) -> None:
    opened: set[int] = set()
    while pieces := await run.news():
        report.first_token()
        if not exchange.status:
            await exchange.begin_stream()
        chunks = []
        for piece in pieces:
            if piece.index not in opened:
                opened.add(piece.index)
                chunks.append(bodies.opening(piece.index))
            if piece.text:
                chunks.append(bodies.text(piece.index, piece.text, piece.scores))
            if piece.finish_reason:
                chunks.append(bodies.closing(piece.index, piece.finish_reason))
        await exchange.write(b"".join(chunks))
    usage = bodies.usage(report.usage()) if bodies.with_usage else b""
    await exchange.write(usage + DONE, more=False)


async def _while_there(exchange: Exchange, work: Coroutine[Any, Any, None]) -> None:
    """Do the work, but stop at once when the client goes away."""
    working = asyncio.create_task(work)
    leaving = asyncio.create_task(exchange.gone())
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not (working.done() or exchange.complete):
            raise ClientGoneError
        await working
    finally:
        working.cancel()
        leaving.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _parsed(model: type[R], body: bytes) -> R:
    if len(body) < _LARGE_BODY:
        return parse(model, body)
    return await asyncio.to_thread(parse, model, body)
