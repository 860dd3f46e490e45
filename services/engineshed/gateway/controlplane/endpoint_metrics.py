"""The metrics of one endpoint: what its replicas measure, on one page for its owner."""

import asyncio
from http import HTTPStatus
from typing import Any, Final

import structlog
from fastapi import APIRouter, Request, Response
from prometheus_client import CollectorRegistry, Gauge, generate_latest

from engineshed.api.scheduler.v1.route_pb2 import Route, RouteReplica
from engineshed.errors import DomainError, Kind
from engineshed.gateway.controlplane.clients import Caller, CallerDep, request_id_of
from engineshed.gateway.controlplane.endpoints import owned_endpoint
from engineshed.gateway.controlplane.exposition import merge
from engineshed.gateway.controlplane.parameters import EndpointId
from engineshed.gateway.dataplane.fronts import Fronts
from engineshed.gateway.regions import Regions
from engineshed.telemetry import CONTENT_TYPE

# A front waits 5 s for its Triton before it answers without; Prometheus gives up after 10 s.
PATIENCE_SECONDS: Final = 7.0
MAX_PAGE_BYTES: Final = 512 * 1024

# Of the whole host, where other organizations' replicas run too.
_HIDDEN: Final = ("nv_cpu_",)
_PAGE: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "A page of metrics, as Prometheus scrapes it.",
        "content": {"text/plain": {"schema": {"type": "string"}}},
    }
}

router = APIRouter(prefix="/v0/dedicated_endpoints/{endpoint_id}", tags=["endpoints"])

log: Final[structlog.stdlib.BoundLogger] = structlog.get_logger()


class WrongRegionError(DomainError):
    """The replicas are out of this gateway's reach."""

    kind = Kind.NOT_FOUND
    reason = "WRONG_REGION"


@router.get("/metrics", response_class=Response, responses=_PAGE)
async def get_endpoint_metrics(
    endpoint_id: EndpointId, caller: CallerDep, request: Request
) -> Response:
    """Return what the replicas that get an endpoint's requests measure, for Prometheus to scrape.

    Each sample has the label `replica_id`. `engineshed_endpoint_replicas` says how many replicas
    were asked, and `engineshed_endpoint_replicas_unheard` how many of them did not answer.
    """
    replicas = await _replicas(caller, endpoint_id, request.app.state.regions)
    request_id = request_id_of(request)
    asked = (_page(caller.services.fronts, replica, request_id) for replica in replicas)
    said = await asyncio.gather(*asked)
    pages = {
        replica.replica_id: page
        for replica, page in zip(replicas, said, strict=True)
        if page is not None
    }
    merged = await asyncio.to_thread(merge, "replica_id", pages.items(), _HIDDEN)
    return Response(
        _counts(len(replicas), len(replicas) - len(pages)) + merged,
        media_type=CONTENT_TYPE,
        headers={"cache-control": "no-store"},
    )


async def _replicas(caller: Caller, endpoint_id: str, regions: Regions) -> list[RouteReplica]:
    """Return where the caller's endpoint answers.

    Raises:
        WrongRegionError: in another region.
    """
    endpoint = await owned_endpoint(caller, endpoint_id)
    route = caller.services.routes.entries.get(endpoint.routing_key)
    if endpoint.region != regions.own:
        url = regions.base_url(route or Route(region=endpoint.region))
        raise WrongRegionError(
            f"the endpoint runs in the region {endpoint.region}; "
            f"use {url or 'the gateway of that region'}",
            region=endpoint.region,
        )
    if route is None or route.endpoint_id != endpoint_id:
        return []
    return list(route.replicas)


async def _page(fronts: Fronts, replica: RouteReplica, request_id: str) -> str | None:
    """Return a replica's page of metrics; None: it did not answer as it should, or in time."""
    headers = {"authorization": f"Bearer {replica.secret}", "x-request-id": request_id}
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            answer = await fronts.get(replica.url, "/metrics", headers)
            try:
                text = (await answer.whole(MAX_PAGE_BYTES)).decode()
            finally:
                answer.release()
    except (OSError, ValueError) as error:
        log.warning("replica unheard", replica=replica.replica_id, error=repr(error))
        return None
    return text if answer.status == HTTPStatus.OK else None


def _counts(asked: int, unheard: int) -> str:
    registry = CollectorRegistry()
    for name, what, count in (
        ("replicas", "Replicas that get the endpoint's requests, which were asked.", asked),
        ("replicas_unheard", "Those of them that did not answer.", unheard),
    ):
        Gauge(f"engineshed_endpoint_{name}", what, registry=registry).set(count)
    return generate_latest(registry).decode()
