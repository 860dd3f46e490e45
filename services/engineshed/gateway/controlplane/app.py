"""The control plane's application: routes, errors, access log, health."""

import time
from collections.abc import Awaitable, Callable
from typing import Final

import grpc
import structlog
from fastapi import Depends, FastAPI, Request, Response
from structlog.contextvars import bind_contextvars

from engineshed.api.catalog.v1.template_service_pb2 import ListTemplatesRequest
from engineshed.api.scheduler.v1.node_service_pb2 import ListNodesRequest, Node
from engineshed.auth import OPERATOR, ForbiddenError
from engineshed.gateway.controlplane import (
    catalog,
    endpoint_metrics,
    endpoints,
    estimates,
    nodes,
    problems,
    watching,
)
from engineshed.gateway.controlplane.clients import CallerDep, Services, request_id_of
from engineshed.gateway.controlplane.description import DescribedApi
from engineshed.gateway.controlplane.parameters import only_known
from engineshed.gateway.metrics import GatewayMetrics
from engineshed.gateway.regions import Regions
from engineshed.telemetry import CONTENT_TYPE, Exposition
from engineshed.telemetry.tracing import TRACEPARENT, Value, start_span

HEALTH_SECONDS: Final = 2.0

_HEARD: Final = (Node.STATE_JOINED, Node.STATE_CORDONED, Node.STATE_DRAINING)

log: Final[structlog.stdlib.BoundLogger] = structlog.get_logger()


def control_plane(
    services: Services,
    regions: Regions,
    metrics: GatewayMetrics,
    exposition: Exposition,
) -> FastAPI:
    """Return the REST API over `services`.

    `regions` says which one is ours, and where the endpoints of each have their host names.
    `metrics` measures its requests too; `exposition` is what operators see.
    """
    app = DescribedApi()
    app.state.services = services
    app.state.regions = regions
    app.state.metrics = metrics
    app.state.exposition = exposition
    app.state.missing = "nobody has looked yet"
    for router in (
        endpoints.router,
        estimates.router,
        watching.router,
        watching.all_events,
        endpoint_metrics.router,
        catalog.router,
        nodes.router,
    ):
        app.include_router(router, dependencies=[Depends(only_known)])
    app.add_api_route("/healthz", healthz, methods=["GET"], tags=["health"])
    app.add_api_route("/metrics", get_metrics, include_in_schema=False)
    app.middleware("http")(_logged)
    problems.install(app)
    return app


async def healthz(request: Request, response: Response) -> dict[str, str]:
    """Return 200 once all that a deployment needs has been there, and from then on while we live.

    That is a node of this region, and the catalog, without which no token is known.
    """
    state = request.app.state
    if state.missing:
        state.missing = await _what_is_missing(state.services, state.regions.own)
    if state.missing:
        response.status_code = 503
        return {"status": "starting", "detail": state.missing}
    return {"status": "ok"}


async def get_metrics(request: Request, caller: CallerDep) -> Response:
    """Return the gateway's metrics, for operators: they tell of all organizations' endpoints."""
    if not caller.principal.may(OPERATOR):
        raise ForbiddenError(f"this needs the scope {OPERATOR}", scope=OPERATOR)
    return Response(await request.app.state.exposition.text(), media_type=CONTENT_TYPE)


async def _what_is_missing(services: Services, region: str) -> str:
    try:
        await services.templates.ListTemplates(ListTemplatesRequest(), timeout=HEALTH_SECONDS)
        reply = await services.nodes.ListNodes(ListNodesRequest(), timeout=HEALTH_SECONDS)
    except grpc.aio.AioRpcError as error:
        log.info("a service is unavailable", code=error.code().name, detail=error.details())
        return "the catalog or the scheduler does not answer yet"
    if any(
        node.state in _HEARD and node.reported and node.inventory.region == region
        for node in reply.nodes
    ):
        return ""
    return "no node of this region has joined yet"


async def _logged(
    request: Request, call_next: Callable[[Request], Awaitable[Response]]
) -> Response:
    started = time.perf_counter()
    request_id = request_id_of(request)
    bind_contextvars(request_id=request_id)  # for all lines: each request has a task of its own
    span = start_span(request.method, request.headers.get(TRACEPARENT, ""))
    span.enter()
    try:
        response = await call_next(request)
    except Exception as error:  # noqa: BLE001 - a bug: the caller gets a problem like any other
        response = await problems.bug(request, error)
    response.headers["x-request-id"] = request_id
    route = request.scope.get("route")
    principal = getattr(request.state, "principal", None)
    path, seconds = getattr(route, "path", ""), time.perf_counter() - started
    request.app.state.metrics.request(request.method, path, response.status_code, seconds)
    span.rename(f"{request.method} {path}")
    attributes: dict[str, Value] = {
        "http.request.method": request.method,
        "http.route": path,
        "http.response.status_code": response.status_code,
        "engineshed.request_id": request_id,
    }
    span.end(attributes, str(response.status_code) if response.status_code >= 500 else "")
    log.info(
        "request",
        method=request.method,
        path=path,
        status=response.status_code,
        ms=round(seconds * 1000, 1),
        request_id=request_id,
        org=principal.org_id if principal else "",
        endpoint=request.path_params.get("endpoint_id", ""),
    )
    return response
