"""Passes a request to a replica and its answer back, byte by byte.

Until the first byte of an answer has come a failed replica is passed over for the next one. After
it a failure shows: an error event in a stream, and never an end that looks clean.
"""

import json
from collections.abc import Callable
from http import HTTPStatus
from typing import Final

import structlog

from engineshed.api.scheduler.v1.route_pb2 import Route, RouteReplica
from engineshed.gateway.dataplane.balancer import Balancer
from engineshed.gateway.dataplane.errors import OpenAIError, recovering
from engineshed.gateway.dataplane.exchange import Exchange
from engineshed.gateway.dataplane.fronts import Answer, Fronts
from engineshed.gateway.dataplane.http import Header
from engineshed.telemetry.tracing import TRACEPARENT

EVENT_STREAM: Final = b"text/event-stream"
# What of a replica's headers a caller gets.
_PASSED: Final = (b"content-type", b"content-length", b"retry-after", b"cache-control")
# What a replica says that takes no requests any more.
_LEAVING: Final = ("draining", "ending")
_REFUSAL_BYTES: Final = 64 * 1024
_BROKEN: Final = OpenAIError(
    HTTPStatus.BAD_GATEWAY,
    "stream_broken",
    "the replica failed while it was answering; what came so far is not the whole answer",
)

log: Final[structlog.stdlib.BoundLogger] = structlog.get_logger()


class _PassOver(Exception):  # noqa: N818 - no error of ours: the next replica gets the request
    """A replica did not begin to answer."""

    def __init__(self, error: OpenAIError | None = None) -> None:
        self.error = error  # what the replica said, if it said something
        self.is_leaving = error is not None and error.code in _LEAVING


class Forwarder:
    """The replicas' side of the gateway."""

    def __init__(self, fronts: Fronts, balancer: Balancer) -> None:
        self._fronts = fronts
        self._balancer = balancer

    async def forward(
        self,
        route: Callable[[], Route],
        exchange: Exchange,
        body: bytes,
        leaving: set[str] | None = None,
    ) -> int:
        """Send the request to replicas of the route until one answers; return the status.

        `route` returns it as it is now: a replica that became ready meanwhile is tried too. Those
        in `leaving` are not asked; who says that it takes no more requests at all is added to it.

        Raises:
            OpenAIError: none did; nothing has been sent to the caller.
        """
        tried = set(leaving or ())
        refusal: OpenAIError | None = None
        while replica := self._balancer.choose(route(), tried):
            tried.add(replica.replica_id)
            try:
                with self._balancer.occupying(replica.replica_id):
                    return await self._ask(replica, exchange, body)
            except _PassOver as passed:
                exchange.metrics.passed_over += 1
                refusal = passed.error or refusal
                if leaving is not None and passed.is_leaving:
                    leaving.add(replica.replica_id)
        raise refusal or recovering(route().routing_key)

    async def _ask(self, replica: RouteReplica, exchange: Exchange, body: bytes) -> int:
        headers = {
            "authorization": f"Bearer {replica.secret}",
            "content-type": "application/json",
            "x-request-id": exchange.request_id,
        }
        if exchange.span.traceparent:
            headers[TRACEPARENT] = exchange.span.traceparent
        try:
            answer = await self._fronts.post(replica.url, exchange.path, headers, body)
            try:
                if answer.status == HTTPStatus.SERVICE_UNAVAILABLE:
                    raise _PassOver(await _refusal(answer))
                await _pass(answer, await answer.read(), exchange)
                return answer.status
            finally:
                answer.release()
        except OSError as error:
            log.warning(
                "replica unreachable",
                request_id=exchange.request_id,
                replica=replica.replica_id,
                error=repr(error),
            )
            raise _PassOver from error


async def _pass(answer: Answer, first: bytes, exchange: Exchange) -> None:
    """Send the answer, in the pieces in which it comes; `first` has come."""
    send, headers = exchange.send, answer.headers
    passed: list[Header] = [(name, headers[name]) for name in _PASSED if name in headers]
    exchange.streams = headers.get(b"content-type", b"").startswith(EVENT_STREAM)
    await send(
        {
            "type": "http.response.start",
            "status": answer.status,
            "headers": [*passed, exchange.id_header],
        }
    )
    part = first
    try:
        while not answer.ended:
            await send({"type": "http.response.body", "body": part, "more_body": True})
            part = await answer.read()
    except OSError as error:
        exchange.metrics.broken += 1
        log.warning("answer broken", request_id=exchange.request_id, error=repr(error))
        if exchange.streams:
            event = b"data: " + _BROKEN.body() + b"\n\n"
            await send({"type": "http.response.body", "body": event, "more_body": True})
        return  # without the last part: the server then closes the connection in the middle
    await send({"type": "http.response.body", "body": part})


async def _refusal(answer: Answer) -> OpenAIError:
    """Return what a replica that takes no more says."""
    try:
        said = json.loads(await answer.whole(_REFUSAL_BYTES))["error"]
        return OpenAIError(
            HTTPStatus.SERVICE_UNAVAILABLE, str(said["code"]), str(said["message"]), retry_after=1
        )
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise _PassOver from error
