"""The control plane's application: routes, errors, access log, health."""

import time
from collections.abc import Awaitable, Callable
from typing import Final

import grpc
import structlog
from fastapi import FastAPI, Request, Response

from engineshed.api.scheduler.v1.node_service_pb2 import ListNodesRequest, Node
from engineshed.gateway.controlplane import catalog, endpoints, problems, watching
from engineshed.gateway.controlplane.clients import Services, request_id_of
from engineshed.gateway.controlplane.description import DescribedApi

HEALTH_SECONDS: Final = 2.0

log: Final[structlog.stdlib.BoundLogger] = structlog.get_logger()


def control_plane(services: Services, region: str, public_host: str) -> FastAPI:
    """Return the REST API over `services`.

    `public_host` is the gateway's own host and port, below which endpoints have their host names.
    """
    app = DescribedApi()
    app.state.services = services
    app.state.public_host = public_host
    app.state.region = region
    app.state.node_joined = False
    app.include_router(endpoints.router)
    app.include_router(watching.router)
    app.include_router(catalog.router)
    app.add_api_route("/healthz", healthz, methods=["GET"], tags=["health"])
    app.middleware("http")(_logged)
    problems.install(app)
    return app


async def healthz(request: Request, response: Response) -> dict[str, str]:
    """Return 200 once a node of this region has joined, and from then on as long as we live."""
    state = request.app.state
    if not state.node_joined:
        state.node_joined = await _a_node_has_joined(state.services, state.region)
    if state.node_joined:
        return {"status": "ok"}
    response.status_code = 503
    return {"status": "starting", "detail": "no node of this region has joined yet"}


async def _a_node_has_joined(services: Services, region: str) -> bool:
    try:
        reply = await services.nodes.ListNodes(ListNodesRequest(), timeout=HEALTH_SECONDS)
    except grpc.aio.AioRpcError as error:
        log.info("scheduler unavailable", code=error.code().name, detail=error.details())
        return False
    return any(
        node.state == Node.STATE_JOINED and node.inventory.region == region for node in reply.nodes
    )


async def _logged(
    request: Request, call_next: Callable[[Request], Awaitable[Response]]
) -> Response:
    started = time.perf_counter()
    request_id = request_id_of(request)
    try:
        response = await call_next(request)
    except Exception as error:  # noqa: BLE001 - a bug: the caller gets a problem like any other
        response = await problems.bug(request, error)
    response.headers["x-request-id"] = request_id
    route = request.scope.get("route")
    principal = getattr(request.state, "principal", None)
    log.info(
        "request",
        method=request.method,
        path=getattr(route, "path", ""),
        status=response.status_code,
        ms=round((time.perf_counter() - started) * 1000, 1),
        request_id=request_id,
        org=principal.org_id if principal else "",
        endpoint=request.path_params.get("endpoint_id", ""),
    )
    return response
