"""EndpointService over gRPC."""

from typing import Any

from grpc.aio import ServicerContext

from engineshed.api.scheduler.v1 import endpoint_service_pb2 as pb
from engineshed.api.scheduler.v1.endpoint_service_pb2_grpc import EndpointServiceServicer
from engineshed.auth import Principal
from engineshed.errors import DomainError
from engineshed.eventstore import Idempotency, RequestRepeatedError
from engineshed.rpc import Call, current_call
from engineshed.runtime import utc_now
from engineshed.scheduler import store
from engineshed.scheduler.agents import Agents
from engineshed.scheduler.calls import (
    DEFAULT_PAGE_SIZE,
    by_caller,
    invalid_page_token,
    key_of,
    moment_of,
    once,
    page_token,
)
from engineshed.scheduler.creation import Creation
from engineshed.scheduler.domain.commands import (
    Command,
    Delete,
    Restart,
    Rollback,
    Stop,
    Wake,
)
from engineshed.scheduler.domain.endpoint import Endpoint
from engineshed.scheduler.domain.errors import EndpointNotFoundError
from engineshed.scheduler.endpoints import Endpoints, read_answer
from engineshed.scheduler.estimates import Estimates
from engineshed.scheduler.journal import Journal
from engineshed.scheduler.purge import Purge
from engineshed.scheduler.rendering import endpoint_message
from engineshed.scheduler.updates import Updates


class EndpointServicer(EndpointServiceServicer):
    """Interceptors validate the request and give errors their status before and after this."""

    def __init__(
        self,
        journal: Journal,
        endpoints: Endpoints,
        creation: Creation,
        updates: Updates,
        estimates: Estimates,
        agents: Agents,
        purge: Purge,
    ) -> None:
        self._journal = journal
        self._endpoints = endpoints
        self._creation = creation
        self._updates = updates
        self._estimates = estimates
        self._agents = agents
        self._purge = purge

    async def CreateEndpoint(
        self, request: pb.CreateEndpointRequest, context: ServicerContext[Any, Any]
    ) -> pb.CreateEndpointResponse:
        """Serve a checkpoint on GPUs reserved for it."""
        call = current_call()
        key = once(call, "CreateEndpoint", request)
        endpoint = await self._recall(key)
        if endpoint is None:
            try:
                endpoint = self._shown(await self._creation.create(request, call, key))
            except RequestRepeatedError as error:
                endpoint = await self._again(error.response)
        return pb.CreateEndpointResponse(endpoint=endpoint)

    async def GetEndpoint(
        self, request: pb.GetEndpointRequest, context: ServicerContext[Any, Any]
    ) -> pb.GetEndpointResponse:
        """Return one endpoint, as it is or as it was."""
        principal = current_call().principal
        if not request.HasField("as_of"):
            endpoint = await self._owned(request.endpoint_id, principal)
            return pb.GetEndpointResponse(endpoint=self._shown(endpoint))
        moment = moment_of(request.as_of, "as_of")
        past = await self._endpoints.get(request.endpoint_id, as_of=moment)
        endpoint = require_owner(request.endpoint_id, past, principal)
        return pb.GetEndpointResponse(endpoint=endpoint_message(endpoint, moment))

    async def ListEndpoints(
        self, request: pb.ListEndpointsRequest, context: ServicerContext[Any, Any]
    ) -> pb.ListEndpointsResponse:
        """Return a page of the organization's endpoints, newest first."""
        size = request.page_size or DEFAULT_PAGE_SIZE
        found = await store.endpoint_ids(
            self._journal.store,
            current_call().principal.org_id,
            before=_position(key_of(request.page_token)),
            limit=size + 1,
            show_terminated=request.show_terminated,
        )
        page = [await self._endpoints.get(endpoint_id) for _, endpoint_id in found[:size]]
        more = len(found) > size
        return pb.ListEndpointsResponse(
            endpoints=[self._shown(endpoint) for endpoint in page if endpoint is not None],
            next_page_token=page_token(str(found[size - 1][0])) if more else "",
        )

    async def UpdateEndpoint(
        self, request: pb.UpdateEndpointRequest, context: ServicerContext[Any, Any]
    ) -> pb.UpdateEndpointResponse:
        """Change the fields that the mask names."""
        call = current_call()
        endpoint = await self._owned(request.endpoint_id, call.principal)
        key = once(call, "UpdateEndpoint", request)
        changed = await self._recall(key)
        if changed is None:
            async with self._updates.reading(request, endpoint) as command:
                changed = await self._command(endpoint, command, call, key)
        return pb.UpdateEndpointResponse(endpoint=changed)

    async def RollbackEndpoint(
        self, request: pb.RollbackEndpointRequest, context: ServicerContext[Any, Any]
    ) -> pb.RollbackEndpointResponse:
        """Go back to the deployment before the rollout."""
        call = current_call()
        endpoint = await self._owned(request.endpoint_id, call.principal)
        key = once(call, "RollbackEndpoint", request)
        changed = await self._command(endpoint, Rollback(request.etag), call, key)
        return pb.RollbackEndpointResponse(endpoint=changed)

    async def StopEndpoint(
        self, request: pb.StopEndpointRequest, context: ServicerContext[Any, Any]
    ) -> pb.StopEndpointResponse:
        """Drain the replicas and release their GPUs."""
        call = current_call()
        endpoint = await self._owned(request.endpoint_id, call.principal)
        key = once(call, "StopEndpoint", request)
        changed = await self._command(endpoint, Stop(), call, key)
        return pb.StopEndpointResponse(endpoint=changed)

    async def RestartEndpoint(
        self, request: pb.RestartEndpointRequest, context: ServicerContext[Any, Any]
    ) -> pb.RestartEndpointResponse:
        """Bring a stopped endpoint back."""
        call = current_call()
        endpoint = await self._owned(request.endpoint_id, call.principal)
        key = once(call, "RestartEndpoint", request)
        changed = await self._command(endpoint, Restart(), call, key)
        return pb.RestartEndpointResponse(endpoint=changed)

    async def DeleteEndpoint(
        self, request: pb.DeleteEndpointRequest, context: ServicerContext[Any, Any]
    ) -> pb.DeleteEndpointResponse:
        """Terminate the endpoint for good."""
        call = current_call()
        endpoint = await self._owned(request.endpoint_id, call.principal)
        key = once(call, "DeleteEndpoint", request)
        changed = await self._command(endpoint, Delete(request.etag), call, key)
        return pb.DeleteEndpointResponse(endpoint=changed)

    async def EstimateEndpoint(
        self, request: pb.EstimateEndpointRequest, context: ServicerContext[Any, Any]
    ) -> pb.EstimateEndpointResponse:
        """Say whether a model would fit."""
        return await self._estimates.estimate(request, current_call().principal)

    async def WakeEndpoint(
        self, request: pb.WakeEndpointRequest, context: ServicerContext[Any, Any]
    ) -> pb.WakeEndpointResponse:
        """Want a replica for an endpoint that is idle."""
        call = current_call()
        endpoint = await self._owned(request.endpoint_id, call.principal)
        changed = await self._command(endpoint, Wake(), call, None)
        return pb.WakeEndpointResponse(endpoint=changed)

    async def _owned(self, endpoint_id: str, principal: Principal) -> Endpoint:
        found = await self._endpoints.get(endpoint_id)
        return require_owner(endpoint_id, found, principal)

    async def _command(
        self, endpoint: Endpoint, command: Command, call: Call, key: Idempotency | None
    ) -> pb.Endpoint:
        """Carry out a command once, and return the endpoint after it."""
        repeated = await self._recall(key)
        if repeated is not None:
            return repeated
        metadata = by_caller(call, endpoint.org_id)
        try:
            changed = await self._endpoints.command(endpoint.endpoint_id, command, metadata, key)
        except DomainError:
            # What refuses it may be the same request, which was sent twice and carried out once.
            repeated = await self._recall(key)
            if repeated is None:
                raise
            return repeated
        return self._shown(changed)

    async def _recall(self, key: Idempotency | None) -> pb.Endpoint | None:
        answer = await self._journal.store.recall(key) if key else None
        return None if answer is None else await self._again(answer)

    async def _again(self, answer: bytes) -> pb.Endpoint:
        """Return the endpoint as it was shown when the request was carried out."""
        endpoint = await self._endpoints.get_revision(*read_answer(answer))
        return endpoint_message(endpoint, endpoint.updated_at)

    def _shown(self, endpoint: Endpoint) -> pb.Endpoint:
        return endpoint_message(
            endpoint,
            utc_now(),
            view=self._journal.view,
            agents=self._agents,
            purged_at=self._purge.at(endpoint.endpoint_id),
        )


def require_owner(endpoint_id: str, endpoint: Endpoint | None, principal: Principal) -> Endpoint:
    """Return the endpoint, if the caller may know that it exists."""
    if endpoint is None or not (principal.is_service or principal.org_id == endpoint.org_id):
        raise EndpointNotFoundError.of(endpoint_id)
    return endpoint


def _position(key: str) -> int | None:
    if not key:
        return None
    if not (key.isascii() and key.isdigit() and len(key) < 19):
        raise invalid_page_token()
    return int(key)
