"""Channels to other services: credentials, deadlines and request ids on every call."""

import json
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable
from typing import Any, Final

import grpc
from grpc.aio import ClientCallDetails, Metadata

from engineshed.rpc.call import AUTHORIZATION, REQUEST_ID, request_id_of_context
from engineshed.rpc.tls import channel_credentials
from engineshed.runtime.tls import TlsPeer
from engineshed.telemetry.tracing import TRACEPARENT, current_traceparent

DEADLINE_SECONDS: Final = 10.0

LEADER: Final = "engineshed.api.scheduler.v1.EndpointService"
"""The service that is healthy at one of several schedulers: at the one that leads."""

_OPTIONS: Final = (
    # A service that comes back is found within a second.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # So is one that comes back at another address, as containers do.
    ("grpc.dns_min_time_between_resolutions_ms", 1000),
    # A peer that is gone without a word is noticed, on a stream that has long been quiet too.
    # (Without a ping timeout of its own it takes a minute, whatever the keepalive's timeout is.)
    ("grpc.keepalive_time_ms", 5_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.keepalive_permit_without_calls", 0),
    ("grpc.max_receive_message_length", 64 * 1024 * 1024),
)

# grpc's own types for continuations are loose: what they return depends on the kind of call.
Continuation = Callable[[ClientCallDetails, Any], Awaitable[Any]]


def open_channel(
    address: str,
    token: str | None,
    name: str,
    *,
    healthy: str = "",
    tls: TlsPeer | None = None,
) -> grpc.aio.Channel:
    """Open a channel to `address`, which calls in the name of the holder of `token`.

    A call that brings its own `authorization` keeps it. A unary call without a timeout gets one of
    ten seconds.

    Args:
        address: host:port, or another gRPC target: `dns:///name:port` whose name has several
            addresses, or `ipv4:10.0.0.1:7002,10.0.0.2:7002`.
        token: the caller's secret; None for none.
        name: the calling service, for the other side's logs.
        healthy: the gRPC service that must be healthy at an address for calls to go there: of
            several schedulers only the one that leads says so.
        tls: the certificate to present, and who must answer; None: plain text.

    """
    decorate = _Decorator(token)
    options = [
        *_OPTIONS,
        ("grpc.primary_user_agent", f"engineshed-{name}"),
        ("grpc.service_config", _service_config(healthy)),
    ]
    interceptors = [_UnaryUnary(decorate), _UnaryStream(decorate), _StreamStream(decorate)]
    if tls is None:
        return grpc.aio.insecure_channel(address, options, interceptors=interceptors)
    return grpc.aio.secure_channel(
        address,
        channel_credentials(tls.files),
        [*options, ("grpc.default_authority", tls.name)],  # the name that is verified
        interceptors=interceptors,
    )


def _service_config(healthy: str) -> str:
    """See gRPC's service_config.proto: LoadBalancingConfig and HealthCheckConfig."""
    config: dict[str, object] = {}
    if healthy:
        config["loadBalancingConfig"] = [{"round_robin": {}}]
        config["healthCheckConfig"] = {"serviceName": healthy}
    return json.dumps(config)


class _Decorator:
    def __init__(self, token: str | None) -> None:
        self._token = token

    def __call__(self, details: ClientCallDetails, deadline: float | None) -> ClientCallDetails:
        metadata = Metadata(*(details.metadata or ()))
        if self._token and metadata.get(AUTHORIZATION) is None:
            metadata.add(AUTHORIZATION, f"Bearer {self._token}")
        request_id = request_id_of_context()
        if request_id and metadata.get(REQUEST_ID) is None:
            metadata.add(REQUEST_ID, request_id)
        traceparent = current_traceparent()
        if traceparent and metadata.get(TRACEPARENT) is None:
            metadata.add(TRACEPARENT, traceparent)
        timeout = details.timeout if details.timeout is not None else deadline
        return ClientCallDetails(
            method=details.method,
            timeout=timeout,
            metadata=metadata,
            credentials=details.credentials,
            wait_for_ready=details.wait_for_ready,
        )


class _UnaryUnary(grpc.aio.UnaryUnaryClientInterceptor):
    def __init__(self, decorate: _Decorator) -> None:
        self._decorate = decorate

    async def intercept_unary_unary(
        self, continuation: Continuation, client_call_details: ClientCallDetails, request: object
    ) -> Any:  # noqa: ANN401 - grpc's own call object
        return await continuation(self._decorate(client_call_details, DEADLINE_SECONDS), request)


class _UnaryStream(grpc.aio.UnaryStreamClientInterceptor):
    def __init__(self, decorate: _Decorator) -> None:
        self._decorate = decorate

    async def intercept_unary_stream(
        self, continuation: Continuation, client_call_details: ClientCallDetails, request: object
    ) -> Any:  # noqa: ANN401 - grpc's own call object
        return await continuation(self._decorate(client_call_details, None), request)


class _StreamStream(grpc.aio.StreamStreamClientInterceptor):
    def __init__(self, decorate: _Decorator) -> None:
        self._decorate = decorate

    async def intercept_stream_stream(
        self,
        continuation: Continuation,
        client_call_details: ClientCallDetails,
        request_iterator: AsyncIterable[object] | Iterable[object],
    ) -> Any:  # noqa: ANN401 - grpc's own call object
        return await continuation(self._decorate(client_call_details, None), request_iterator)
