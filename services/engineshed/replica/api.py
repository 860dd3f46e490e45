"""The HTTP side of a replica, as a bare ASGI application: who may call, and what there is."""

import hmac
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import structlog
from structlog.contextvars import bind_contextvars

from engineshed.replica.admission import Admission
from engineshed.replica.answering import CHAT, COMPLETION, Answering, Endpoint
from engineshed.replica.errors import ApiError, engine_failed
from engineshed.replica.exchange import ClientGoneError, Exchange, Receive, Scope, Send
from engineshed.replica.requests import GenerationRequest

R = TypeVar("R", bound=GenerationRequest)

_PROMETHEUS: Final = b"text/plain; version=0.0.4; charset=utf-8"

log = structlog.get_logger()


class Api:
    """Answers HTTP requests of those who know the replica's secret.

    Attributes:
        answering: what answers requests; None while the model is being loaded.

    """

    def __init__(
        self,
        routing_key: str,
        secret: str,
        admission: Admission,
        metrics: Callable[[], Awaitable[tuple[str, str]]],
    ) -> None:
        """Be ready; `metrics` returns the front's and Triton's."""
        self._authorization = f"Bearer {secret}".encode()
        self._admission = admission
        self._metrics = metrics
        self._card = {
            "id": routing_key,
            "object": "model",
            "created": int(time.time()),
            "owned_by": "engineshed",
        }
        self._routes: dict[str, tuple[str, Callable[[Exchange], Awaitable[None]]]] = {
            "/v1/chat/completions": ("POST", lambda exchange: self._answer(exchange, CHAT)),
            "/v1/completions": ("POST", lambda exchange: self._answer(exchange, COMPLETION)),
            "/v1/models": ("GET", self._list_models),
            f"/v1/models/{routing_key}": ("GET", self._show_model),
            "/health": ("GET", self._show_health),
            "/ping": ("GET", self._show_health),
            "/metrics": ("GET", self._show_metrics),
        }
        self.answering: Answering | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        exchange = Exchange(scope, receive, send)
        bind_contextvars(request_id=exchange.request_id)  # each request has a task of its own
        try:
            await self._serve(exchange)
        except ApiError as error:
            await exchange.refuse(error)
        except ClientGoneError:
            log.info("client_gone", request_id=exchange.request_id, path=exchange.path)
        except Exception:
            log.exception("request_failed", request_id=exchange.request_id, path=exchange.path)
            if exchange.status:
                raise  # then the connection is cut, and nobody takes it for a clean end
            await exchange.refuse(
                engine_failed(f"Internal error; the request id is {exchange.request_id}.")
            )

    async def _serve(self, exchange: Exchange) -> None:
        given = exchange.header(b"authorization") or b""
        if not hmac.compare_digest(given, self._authorization):
            raise ApiError(
                401, "The secret of this replica is missing or wrong.", code="invalid_api_key"
            )
        route = self._routes.get(exchange.path)
        if route is None:
            raise ApiError(404, f"There is no {exchange.path} here.", code="not_found")
        method, serve = route
        if exchange.method != method:
            raise ApiError(405, f"{exchange.path} takes {method} only.", code="method_not_allowed")
        await serve(exchange)

    async def _answer(self, exchange: Exchange, endpoint: Endpoint[R]) -> None:
        if self.answering is None:
            with self._admission.admit():  # refuses, and counts it
                raise AssertionError("nothing is admitted before the model is loaded")
        await self.answering.answer(exchange, endpoint)

    async def _list_models(self, exchange: Exchange) -> None:
        await exchange.respond_json(200, {"object": "list", "data": [self._card]})

    async def _show_model(self, exchange: Exchange) -> None:
        await exchange.respond_json(200, self._card)

    async def _show_health(self, exchange: Exchange) -> None:
        if (closed := self._admission.closed) is not None:
            raise closed
        await exchange.respond_json(200, {"status": "ready"})

    async def _show_metrics(self, exchange: Exchange) -> None:
        await exchange.respond(200, "".join(await self._metrics()).encode(), _PROMETHEUS)
