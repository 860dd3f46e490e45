"""/v0/dedicated_endpoints."""

from collections.abc import Collection
from datetime import timedelta
from http import HTTPStatus
from typing import Annotated, Final

from fastapi import APIRouter, Query, Request, Response
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask

from engineshed.api.catalog.v1 import checkpoint_service_pb2, template_service_pb2
from engineshed.api.scheduler.v1 import endpoint_service_pb2 as pb
from engineshed.api.scheduler.v1 import scheduling_service_pb2
from engineshed.api.scheduler.v1.route_pb2 import Route
from engineshed.gateway.controlplane import explanation, schemas, views
from engineshed.gateway.controlplane.clients import Caller, CallerDep
from engineshed.gateway.controlplane.models import CreateEndpoint, Scaling, Serving, UpdateEndpoint
from engineshed.gateway.controlplane.parameters import (
    AsOf,
    EndpointId,
    IdempotencyKey,
    IfMatch,
    PageSize,
    PageToken,
    etag_of,
)
from engineshed.gateway.controlplane.views import Json
from engineshed.gateway.dataplane.waking import is_woken_by_requests
from engineshed.gateway.regions import Regions
from engineshed.runtime import to_timestamp

router = APIRouter(prefix="/v0/dedicated_endpoints", tags=["endpoints"])

# The default is left out, so that a request stays the same that was first sent without it.
_ON_NO_CAPACITY: Final = {
    "queue": pb.ON_NO_CAPACITY_UNSPECIFIED,
    "fail": pb.ON_NO_CAPACITY_FAIL,
}
_STRATEGIES: Final = {
    "surge": pb.UPDATE_STRATEGY_SURGE,
    "recreate": pb.UPDATE_STRATEGY_RECREATE,
}


@router.get("/templates", response_model=schemas.Page[schemas.Template])
async def list_templates(
    caller: CallerDep, page_size: PageSize = 0, page_token: PageToken = ""
) -> Json:
    """List the models that can be deployed by name, with their valid combinations."""
    reply = await caller.services.templates.ListTemplates(
        template_service_pb2.ListTemplatesRequest(page_size=page_size, page_token=page_token),
        metadata=caller.metadata,
    )
    return views.page([views.template(item) for item in reply.templates], reply.next_page_token)


@router.post("", status_code=HTTPStatus.CREATED, response_model=schemas.Endpoint)
async def create_endpoint(
    body: CreateEndpoint,
    caller: CallerDep,
    request: Request,
    response: Response,
    key: IdempotencyKey = "",
) -> Json:
    """Serve a model on GPUs reserved for it."""
    message = pb.CreateEndpointRequest(
        name=body.name,
        description=body.description,
        model_name=body.model_name or "",
        flavor_name=body.flavor_name or "",
        checkpoint_id=body.checkpoint_id or "",
        gpu_type=body.gpu_type or "",
        gpu_count=body.gpu_count or 0,
        region=body.region or "",
        scaling=_scaling(body.scaling) if body.scaling else None,
        serving=serving_message(body.serving) if body.serving else None,
        on_no_capacity=_ON_NO_CAPACITY[body.on_no_capacity],
        request_id=key,
    )
    reply = await caller.services.endpoints.CreateEndpoint(message, metadata=caller.metadata)
    await _until_it_is_so_here_too(reply.endpoint, caller, request)
    response.headers["location"] = f"{router.prefix}/{reply.endpoint.endpoint_id}"
    return _view(reply.endpoint, request, response)


@router.get("", response_model=schemas.Page[schemas.Endpoint])
async def list_endpoints(
    caller: CallerDep,
    request: Request,
    page_size: PageSize = 0,
    page_token: PageToken = "",
    show_terminated: Annotated[bool, Query(description="Terminated ones too.")] = False,
) -> Json:
    """List the organization's endpoints, newest first."""
    reply = await caller.services.endpoints.ListEndpoints(
        pb.ListEndpointsRequest(
            page_size=page_size, page_token=page_token, show_terminated=show_terminated
        ),
        metadata=caller.metadata,
    )
    return views.page([_shown(request, item) for item in reply.endpoints], reply.next_page_token)


@router.get("/{endpoint_id}", response_model=schemas.Endpoint)
async def get_endpoint(
    endpoint_id: EndpointId,
    caller: CallerDep,
    request: Request,
    response: Response,
    as_of: AsOf = None,
) -> Json:
    """Return one endpoint with its replicas."""
    message = pb.GetEndpointRequest(
        endpoint_id=endpoint_id, as_of=to_timestamp(as_of) if as_of else None
    )
    reply = await caller.services.endpoints.GetEndpoint(message, metadata=caller.metadata)
    if not as_of:
        await _until_it_is_so_here_too(reply.endpoint, caller, request)
    return _view(reply.endpoint, request, response)


@router.patch("/{endpoint_id}", response_model=schemas.Endpoint)
async def update_endpoint(
    endpoint_id: EndpointId,
    body: UpdateEndpoint,
    caller: CallerDep,
    request: Request,
    response: Response,
    if_match: IfMatch = "",
    key: IdempotencyKey = "",
) -> Json:
    """Change the given fields only; other replicas take the place of those that run, if need be."""
    message = pb.UpdateEndpointRequest(
        endpoint_id=endpoint_id,
        endpoint=pb.EndpointUpdate(
            name=body.name,
            description=body.description,
            enabled=body.enabled,
            scaling=_scaling(body.scaling),
            checkpoint_id=body.checkpoint_id,
            gpu_type=body.gpu_type,
            gpu_count=body.gpu_count,
            serving=serving_message(body.serving),
        ),
        update_strategy=_STRATEGIES[body.update_strategy],
        update_mask=FieldMask(paths=sorted(_mask(body))),
        etag=etag_of(if_match),
        request_id=key,
    )
    reply = await caller.services.endpoints.UpdateEndpoint(message, metadata=caller.metadata)
    await _until_it_is_so_here_too(reply.endpoint, caller, request)
    return _view(reply.endpoint, request, response)


@router.delete("/{endpoint_id}", response_model=schemas.Endpoint)
async def delete_endpoint(
    endpoint_id: EndpointId,
    caller: CallerDep,
    request: Request,
    response: Response,
    if_match: IfMatch = "",
    key: IdempotencyKey = "",
) -> Json:
    """Terminate an endpoint for good; its history stays."""
    message = pb.DeleteEndpointRequest(
        endpoint_id=endpoint_id, etag=etag_of(if_match), request_id=key
    )
    reply = await caller.services.endpoints.DeleteEndpoint(message, metadata=caller.metadata)
    return _view(reply.endpoint, request, response)


@router.post("/{endpoint_id}/stop", response_model=schemas.Endpoint)
async def stop_endpoint(
    endpoint_id: EndpointId,
    caller: CallerDep,
    request: Request,
    response: Response,
    key: IdempotencyKey = "",
) -> Json:
    """Drain an endpoint and release its GPUs; it can be restarted."""
    message = pb.StopEndpointRequest(endpoint_id=endpoint_id, request_id=key)
    reply = await caller.services.endpoints.StopEndpoint(message, metadata=caller.metadata)
    return _view(reply.endpoint, request, response)


@router.post("/{endpoint_id}/restart", response_model=schemas.Endpoint)
async def restart_endpoint(
    endpoint_id: EndpointId,
    caller: CallerDep,
    request: Request,
    response: Response,
    key: IdempotencyKey = "",
) -> Json:
    """Start a stopped endpoint again, from the same checkpoint and configuration."""
    message = pb.RestartEndpointRequest(endpoint_id=endpoint_id, request_id=key)
    reply = await caller.services.endpoints.RestartEndpoint(message, metadata=caller.metadata)
    await _until_it_is_so_here_too(reply.endpoint, caller, request)
    return _view(reply.endpoint, request, response)


@router.post("/{endpoint_id}/rollback", response_model=schemas.Endpoint)
async def roll_back_endpoint(
    endpoint_id: EndpointId,
    caller: CallerDep,
    request: Request,
    response: Response,
    if_match: IfMatch = "",
    key: IdempotencyKey = "",
) -> Json:
    """Go back to what ran before the rollout that is under way or failed."""
    message = pb.RollbackEndpointRequest(
        endpoint_id=endpoint_id, etag=etag_of(if_match), request_id=key
    )
    reply = await caller.services.endpoints.RollbackEndpoint(message, metadata=caller.metadata)
    return _view(reply.endpoint, request, response)


@router.get("/{endpoint_id}/explanation", response_model=explanation.Explanation)
async def explain_endpoint(endpoint_id: EndpointId, caller: CallerDep) -> Json:
    """Say why its replicas are where they are, and what those wait for that are not placed."""
    reply = await caller.services.scheduling.ExplainEndpoint(
        scheduling_service_pb2.ExplainEndpointRequest(endpoint_id=endpoint_id),
        metadata=caller.metadata,
    )
    return explanation.explain(reply)


@router.get("/{endpoint_id}/lineage", response_model=schemas.Lineage)
async def get_lineage(endpoint_id: EndpointId, caller: CallerDep) -> Json:
    """Return which weights an endpoint serves and where they came from."""
    endpoint = await owned_endpoint(caller, endpoint_id)
    reply = await caller.services.checkpoints.GetCheckpoint(
        checkpoint_service_pb2.GetCheckpointRequest(
            checkpoint_id=endpoint.checkpoint_id, show_deleted=True
        ),
        metadata=caller.metadata,
    )
    return views.lineage(endpoint, reply.checkpoint)


async def owned_endpoint(caller: Caller, endpoint_id: str) -> pb.Endpoint:
    """Return the caller's endpoint; the scheduler refuses one that is another's."""
    reply = await caller.services.endpoints.GetEndpoint(
        pb.GetEndpointRequest(endpoint_id=endpoint_id), metadata=caller.metadata
    )
    endpoint: pb.Endpoint = reply.endpoint
    return endpoint


async def _until_it_is_so_here_too(endpoint: pb.Endpoint, caller: Caller, request: Request) -> None:
    """Wait for this gateway's own copy of the route: it is a moment behind the scheduler.

    Who reads that an endpoint runs, or that a request wakes it, may send that request at once.
    """
    if endpoint.region != request.app.state.regions.own:
        return
    ready = {one.replica_id for one in endpoint.replicas if one.state == pb.Replica.STATE_READY}
    routes = caller.services.routes
    match endpoint.state:
        case pb.Endpoint.STATE_RUNNING:
            await routes.until(endpoint.routing_key, lambda route: _has_any(route, ready))
        case pb.Endpoint.STATE_IDLE:
            await routes.until(endpoint.routing_key, is_woken_by_requests)


def _has_any(route: Route, ready: Collection[str]) -> bool:
    return any(replica.replica_id in ready for replica in route.replicas)


def _view(endpoint: pb.Endpoint, request: Request, response: Response) -> Json:
    response.headers["etag"] = f'"{endpoint.etag}"'
    return _shown(request, endpoint)


def _shown(request: Request, endpoint: pb.Endpoint) -> Json:
    regions: Regions = request.app.state.regions
    return views.endpoint(endpoint, regions.endpoint_url(endpoint.region, endpoint.routing_key))


def _mask(body: UpdateEndpoint) -> set[str]:
    """Name what is given, inside objects too."""
    return {
        *(body.model_fields_set - {"scaling", "serving", "update_strategy"}),
        *(f"scaling.{name}" for name in body.scaling.model_fields_set),
        *(f"serving.{name}" for name in body.serving.model_fields_set),
    }


def _scaling(body: Scaling) -> pb.Scaling:
    given = "max_replicas" in body.model_fields_set
    return pb.Scaling(
        min_replicas=body.min_replicas,
        max_replicas=body.max_replicas if given else max(body.min_replicas, 1),
        idle_after=_duration(body.idle_after),
        wake_timeout=_duration(body.wake_timeout),
    )


def _duration(seconds: float | None) -> Duration | None:
    if seconds is None:
        return None
    duration = Duration()
    duration.FromTimedelta(timedelta(seconds=seconds))
    return duration


def serving_message(body: Serving) -> pb.ServingParameters:
    """Return serving parameters as messages have them."""
    return pb.ServingParameters(
        max_context=body.max_context or 0,
        precision=body.precision or "",
        quantization=body.quantization or "",
        max_batch_size=body.max_batch_size or 0,
        max_batch_tokens=body.max_batch_tokens or 0,
        kv_cache_fraction=body.kv_cache_fraction or 0,
    )
