"""OrganizationService over gRPC."""

from typing import Any

from grpc.aio import ServicerContext

from engineshed import ids
from engineshed.api.catalog.v1 import organization_service_pb2 as pb
from engineshed.api.catalog.v1.organization_service_pb2_grpc import OrganizationServiceServicer
from engineshed.catalog.commands import by_caller, once, recall
from engineshed.catalog.domain.organization import (
    Create,
    OrganizationNotFoundError,
    decide,
    stream_of,
)
from engineshed.catalog.pages import PageRequest
from engineshed.catalog.store import CatalogStore
from engineshed.eventstore import RequestRepeatedError, StreamAppend
from engineshed.rpc import current_call


class OrganizationServicer(OrganizationServiceServicer):
    """Interceptors validate the request and give errors their status before and after this."""

    def __init__(self, store: CatalogStore) -> None:
        self._store = store

    async def CreateOrganization(
        self, request: pb.CreateOrganizationRequest, context: ServicerContext[Any, Any]
    ) -> pb.CreateOrganizationResponse:
        """Add a tenant."""
        call = current_call()
        org_id = ids.new(ids.ORGANIZATION)
        idempotency = once(call, "CreateOrganization", request, org_id)
        known = await recall(self._store.events, idempotency)
        if known is None:
            events = decide(Create(org_id, request.slug))
            append = StreamAppend(stream_of(org_id), 0, events, by_caller(call, org_id))
            try:
                await self._store.events.append(append, idempotency=idempotency)
            except RequestRepeatedError as error:
                known = error.response.decode()
        return pb.CreateOrganizationResponse(organization=await self._get(known or org_id))

    async def GetOrganization(
        self, request: pb.GetOrganizationRequest, context: ServicerContext[Any, Any]
    ) -> pb.GetOrganizationResponse:
        """Return one tenant."""
        return pb.GetOrganizationResponse(organization=await self._get(request.org_id))

    async def ListOrganizations(
        self, request: pb.ListOrganizationsRequest, context: ServicerContext[Any, Any]
    ) -> pb.ListOrganizationsResponse:
        """Return a page of all tenants."""
        page = await self._store.organizations(
            PageRequest.of(request.page_size, request.page_token)
        )
        return pb.ListOrganizationsResponse(
            organizations=page.items, next_page_token=page.next_token
        )

    async def _get(self, org_id: str) -> pb.Organization:
        organization = await self._store.organization(org_id)
        if organization is None:
            raise OrganizationNotFoundError.of(org_id)
        return organization
