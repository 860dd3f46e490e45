"""The services behind the REST API, and in whose name they are called."""

from dataclasses import dataclass
from typing import Annotated

import grpc
from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from engineshed.api.catalog.v1.checkpoint_service_pb2_grpc import CheckpointServiceStub
from engineshed.api.catalog.v1.organization_service_pb2_grpc import OrganizationServiceStub
from engineshed.api.catalog.v1.template_service_pb2_grpc import TemplateServiceStub
from engineshed.api.catalog.v1.token_service_pb2_grpc import TokenServiceStub
from engineshed.api.events.v1.event_service_pb2_grpc import EventServiceStub
from engineshed.api.scheduler.v1.endpoint_service_pb2_grpc import EndpointServiceStub
from engineshed.api.scheduler.v1.node_service_pb2_grpc import NodeServiceStub
from engineshed.api.scheduler.v1.scheduling_service_pb2_grpc import SchedulingServiceStub
from engineshed.auth import Authenticator, Principal, TokenWatch, UnauthenticatedError
from engineshed.bus import Bus
from engineshed.gateway.dataplane.fronts import Fronts
from engineshed.gateway.routes import Routes
from engineshed.rpc import caller_metadata
from engineshed.rpc.call import clean_request_id

Metadata = tuple[tuple[str, str], ...]


class Services:
    """Stubs of all services, over the gateway's own channels."""

    def __init__(
        self,
        catalog: grpc.aio.Channel,
        scheduler: grpc.aio.Channel,
        bus: Bus,
        authenticator: Authenticator,
        routes: Routes,
        fronts: Fronts,
    ) -> None:
        self.organizations = OrganizationServiceStub(catalog)
        self.tokens = TokenServiceStub(catalog)
        self.checkpoints = CheckpointServiceStub(catalog)
        self.templates = TemplateServiceStub(catalog)
        self.endpoints = EndpointServiceStub(scheduler)
        self.nodes = NodeServiceStub(scheduler)
        self.scheduling = SchedulingServiceStub(scheduler)
        self.events = EventServiceStub(scheduler)
        self.bus = bus
        self.authenticator = authenticator
        self.routes = routes
        self.fronts = fronts


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sends a request, and the services to ask in their name."""

    principal: Principal
    metadata: Metadata  # goes with every call, so that the services decide for themselves
    services: Services
    watch: TokenWatch


_bearer = HTTPBearer(auto_error=False, description="An API token: es_…")


def request_id_of(request: Request) -> str:
    """Return the id of this request, made once."""
    if not hasattr(request.state, "request_id"):
        request.state.request_id = clean_request_id(request.headers.get("x-request-id", ""))
    return str(request.state.request_id)


async def authenticated(
    request: Request,
    bearer: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
) -> Caller:
    """Return the caller.

    Raises:
        UnauthenticatedError: there is no valid token.
    """
    if bearer is None or not bearer.credentials:
        raise UnauthenticatedError("no token; send the header: Authorization: Bearer <token>")
    services: Services = request.app.state.services
    principal = await services.authenticator.authenticate(bearer.credentials)
    if principal.is_service:
        raise UnauthenticatedError("service tokens are for gRPC; use an API token here")
    request.state.principal = principal
    return Caller(
        principal,
        caller_metadata(bearer.credentials, request_id_of(request)),
        services,
        TokenWatch(services.authenticator, bearer.credentials),
    )


CallerDep = Annotated[Caller, Depends(authenticated)]
