"""One request and its answer: what is known of them, and when what happened.

The data plane makes one for each request. What observes requests hangs on its three moments: it
begins, `send` passes the first part of the answer on, it is `over`.
"""

import time
from typing import Final

import structlog

from engineshed.api.scheduler.v1.route_pb2 import Route
from engineshed.gateway.dataplane.http import Header, Message, Receive, Scope, Send, header
from engineshed.gateway.metrics import EndpointMetrics, GatewayMetrics
from engineshed.rpc.call import clean_request_id
from engineshed.telemetry.tracing import NO_SPAN, start_span

INFERENCE: Final = frozenset({"/v1/chat/completions", "/v1/completions"})
MODELS: Final = "/v1/models"
HEALTH: Final = frozenset({"/ping", "/health"})
SERVED: Final = INFERENCE | HEALTH | {MODELS}

log: Final[structlog.stdlib.BoundLogger] = structlog.get_logger()


class Exchange:
    """A request that is being answered."""

    __slots__ = (
        "_began",
        "_endpoint",
        "_routing_key",
        "_send",
        "endpoint_id",
        "first_byte_at",
        "method",
        "metrics",
        "org_id",
        "path",
        "receive",
        "request_id",
        "scope",
        "span",
        "streams",
    )

    def __init__(self, scope: Scope, receive: Receive, send: Send, metrics: GatewayMetrics) -> None:
        self.scope = scope
        self.receive = receive
        self.metrics = metrics
        self._send = send
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.request_id = clean_request_id(header(scope, b"x-request-id"))
        self.org_id = ""
        self.endpoint_id = ""
        self._routing_key = ""
        self.first_byte_at = 0.0  # 0: nothing of an answer was sent
        self.streams = False  # the answer comes token by token
        self._endpoint: EndpointMetrics | None = None
        self.span = NO_SPAN
        if self.path in INFERENCE and self.method == "POST":
            self.span = start_span(f"POST {self.path}", header(scope, b"traceparent"))
        self._began = time.perf_counter()

    @property
    def id_header(self) -> Header:
        """The header of the answer by which its caller may ask about it."""
        return (b"x-request-id", self.request_id.encode())

    def goes_to(self, route: Route) -> None:
        """Note which endpoint is asked."""
        self.endpoint_id = route.endpoint_id
        self._endpoint = self.metrics.endpoint(route.routing_key)
        self._endpoint.in_flight += 1
        self._routing_key = route.routing_key

    async def send(self, message: Message) -> None:
        """Send a part of the answer."""
        if not self.first_byte_at:
            self.first_byte_at = time.perf_counter()
            self.span.event("first byte")
        await self._send(message)

    def over(self, status: int) -> None:
        """Note how it ended."""
        seconds = time.perf_counter() - self._began
        self.metrics.request(self.method, _template_of(self.path), status, seconds)
        if self._endpoint is not None:
            self._endpoint.in_flight -= 1
            self._endpoint.duration.observe(seconds)
            if self.streams:
                self._endpoint.first_token.observe(self.first_byte_at - self._began)
        if self.span is not NO_SPAN:
            self._end_span(status)
        log.info(
            "inference",
            method=self.method,
            path=self.path if status != 404 else "",  # what nobody serves may hold anything
            status=int(status),
            ms=round(seconds * 1000, 1),
            request_id=self.request_id,
            org=self.org_id,
            endpoint=self.endpoint_id,
        )

    def _end_span(self, status: int) -> None:
        operation = "chat" if self.path.endswith("/chat/completions") else "text_completion"
        self.span.end(
            {
                "http.request.method": self.method,
                "http.route": self.path,
                "http.response.status_code": int(status),
                "gen_ai.operation.name": operation,
                "gen_ai.request.model": self._routing_key,
                "engineshed.org_id": self.org_id,
                "engineshed.endpoint_id": self.endpoint_id,
                "engineshed.request_id": self.request_id,
            },
            str(int(status)) if status >= 500 else "",
        )


def _template_of(path: str) -> str:
    if path in SERVED:
        return path
    return f"{MODELS}/{{model}}" if path.startswith(f"{MODELS}/") else ""
