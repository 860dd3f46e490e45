"""The data plane: /v1 for all endpoints, and each endpoint's own host name."""

import json
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Final

import structlog

from engineshed.api.scheduler.v1.route_pb2 import Route
from engineshed.auth import Principal
from engineshed.gateway.dataplane.admission import Admission
from engineshed.gateway.dataplane.errors import (
    IDLE,
    OpenAIError,
    not_found,
    not_routable,
    wrong_region,
)
from engineshed.gateway.dataplane.exchange import HEALTH, INFERENCE, MODELS, Exchange
from engineshed.gateway.dataplane.forward import Forwarder
from engineshed.gateway.dataplane.http import (
    ClientGoneError,
    Receive,
    Scope,
    Send,
    answer,
    answer_error,
    answer_json,
    header,
    read_body,
    while_there,
)
from engineshed.gateway.dataplane.waking import Waking
from engineshed.gateway.metrics import CLIENT_GONE, GatewayMetrics
from engineshed.gateway.regions import Regions, below

_BUG: Final = OpenAIError(
    HTTPStatus.INTERNAL_SERVER_ERROR,
    "internal_error",
    "internal error; quote the header x-request-id when you report it",
)

log: Final[structlog.stdlib.BoundLogger] = structlog.get_logger()


class DataPlane:
    """Answers inference requests; an ASGI application."""

    def __init__(
        self,
        routes: Mapping[str, Route],
        admission: Admission,
        forwarder: Forwarder,
        waking: Waking,
        regions: Regions,
        metrics: GatewayMetrics,
    ) -> None:
        """Serve the `routes` of our own region; they may change at any time."""
        self._metrics = metrics
        self._routes = routes
        self._admission = admission
        self._forwarder = forwarder
        self._waking = waking
        self._regions = regions
        self._suffix = "." + regions.own_host

    def serves(self, scope: Scope) -> bool:
        """Tell whether a request is for the data plane."""
        return scope["path"].startswith("/v1/") or bool(self._key_of_host(scope))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        exchange = Exchange(scope, receive, send, self._metrics)
        try:
            status = await self._answer(exchange)
        except ClientGoneError:
            status = CLIENT_GONE
        except OpenAIError as error:
            status = error.status
            self._metrics.refuse(error.code)
            await answer_error(exchange.send, error, [exchange.id_header])
        except Exception:  # a bug
            log.exception("inference failed", request_id=exchange.request_id)
            status = HTTPStatus.INTERNAL_SERVER_ERROR
            if exchange.first_byte_at:
                exchange.over(status)
                raise  # so that the server cuts the answer off
            await answer_error(exchange.send, _BUG, [exchange.id_header])
        exchange.over(status)

    async def _answer(self, exchange: Exchange) -> int:
        path, method = exchange.path, exchange.method
        host_key = self._key_of_host(exchange.scope)
        if host_key and path in HEALTH:
            return await self._health(host_key, exchange)
        if path in INFERENCE:
            _allow(method, "POST")
            return await self._infer(exchange, host_key)
        if path == MODELS or path.startswith(MODELS + "/"):
            _allow(method, "GET")
            return await self._models(exchange, host_key)
        raise OpenAIError(
            HTTPStatus.NOT_FOUND, "unknown_url", f"there is nothing at {method} {path}"
        )

    async def _infer(self, exchange: Exchange, host_key: str) -> int:
        principal = await self._admission.admit(exchange)
        body = await read_body(exchange.receive)
        route = self._route(_model(body, host_key), principal)
        exchange.goes_to(route)
        if route.HasField("wake_timeout"):
            forwarding = self._waking.forward(route, exchange, body)
        elif route.replicas:
            forwarding = self._forwarder.forward(self._latest(route), exchange, body)
        else:
            raise not_routable(route)
        return await while_there(forwarding, exchange.receive)

    def _latest(self, route: Route) -> Callable[[], Route]:
        return lambda: self._routes.get(route.routing_key, route)

    def _route(self, model: str, principal: Principal) -> Route:
        route = self._routes.get(model)
        if route is None or route.org_id != principal.org_id:
            raise not_found(model)
        if route.region != self._regions.own:
            base_url = self._regions.base_url(route)
            raise wrong_region(route, base_url and f"{base_url}/v1")
        return route

    async def _models(self, exchange: Exchange, host_key: str) -> int:
        principal = await self._admission.admit(exchange)
        send, extra = exchange.send, [exchange.id_header]
        wanted = exchange.path.removeprefix(MODELS).removeprefix("/")
        if wanted:
            await answer_json(send, _as_model(self._route(wanted, principal)), extra)
            return HTTPStatus.OK
        named = self._routes.get(host_key)
        if named is not None and named.org_id == principal.org_id:
            self._route(host_key, principal)  # which refuses one that is served elsewhere
        routes = [route for route in self._routes.values() if self._is_listed(route, principal)]
        if host_key:
            routes = [route for route in routes if route.routing_key == host_key]
        data = [_as_model(route) for route in sorted(routes, key=lambda item: item.routing_key)]
        await answer_json(send, {"object": "list", "data": data}, extra)
        return HTTPStatus.OK

    async def _health(self, host_key: str, exchange: Exchange) -> int:
        route = self._routes.get(host_key)
        if route is None:
            raise OpenAIError(HTTPStatus.NOT_FOUND, "endpoint_not_found", "no such endpoint")
        if route.region != self._regions.own:
            base_url = self._regions.base_url(route)
            raise wrong_region(route, base_url and below(base_url, host_key))
        if route.replicas:
            await answer_json(exchange.send, {"status": "ready"})
            return HTTPStatus.OK
        status = b"idle" if route.status == IDLE else b"not ready"
        body = b'{"status": "%s"}' % status
        await answer(exchange.send, HTTPStatus.SERVICE_UNAVAILABLE, body)
        return HTTPStatus.SERVICE_UNAVAILABLE

    def _is_listed(self, route: Route, principal: Principal) -> bool:
        return (
            route.org_id == principal.org_id
            and route.region == self._regions.own
            and (route.ever_ready or route.HasField("wake_timeout"))
            and route.status not in ("stopping", "stopped", "failed")
        )

    def _key_of_host(self, scope: Scope) -> str:
        """Return the routing key that the host name carries, or an empty string."""
        host = header(scope, b"host").partition(":")[0].lower()
        return host.removesuffix(self._suffix) if host.endswith(self._suffix) else ""


def _model(body: bytes, host_key: str) -> str:
    """Return the routing key that a request names."""
    try:
        request = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise OpenAIError(
            HTTPStatus.BAD_REQUEST, "invalid_json", f"the body is not valid JSON: {error}"
        ) from error
    model = request.get("model", host_key) if isinstance(request, dict) else None
    if not isinstance(model, str) or not model:
        raise OpenAIError(
            HTTPStatus.BAD_REQUEST,
            "missing_model",
            "model must be the routing key of an endpoint; GET /v1/models lists yours",
            "model",
        )
    if host_key and model != host_key:
        raise not_found(model)
    return model


def _allow(method: str, allowed: str) -> None:
    if method != allowed:
        raise OpenAIError(
            HTTPStatus.METHOD_NOT_ALLOWED,
            "method_not_allowed",
            f"use {allowed} here",
            allow=allowed,
        )


def _as_model(route: Route) -> dict[str, object]:
    return {
        "id": route.routing_key,
        "object": "model",
        "created": route.create_time.seconds,
        "owned_by": route.org_id,
    }
