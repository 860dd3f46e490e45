"""The catalog, as the scheduler uses it: templates, checkpoints, holds, tokens."""

from collections.abc import Awaitable
from typing import Final, TypeVar

import grpc

from engineshed.api.catalog.v1.checkpoint_service_pb2 import Checkpoint, GetCheckpointRequest
from engineshed.api.catalog.v1.checkpoint_service_pb2_grpc import CheckpointServiceStub
from engineshed.api.catalog.v1.hold_service_pb2 import CreateHoldRequest, DeleteHoldRequest
from engineshed.api.catalog.v1.hold_service_pb2_grpc import HoldServiceStub
from engineshed.api.catalog.v1.template_service_pb2 import GetTemplateRequest, Template
from engineshed.api.catalog.v1.template_service_pb2_grpc import TemplateServiceStub
from engineshed.api.catalog.v1.token_service_pb2 import IntrospectTokenRequest, TokenGrant
from engineshed.api.catalog.v1.token_service_pb2_grpc import TokenServiceStub
from engineshed.errors import DomainError, InvalidFieldError, Kind
from engineshed.rpc import RemoteError, error_from

_DEADLINE_S: Final = 5.0

T = TypeVar("T")


class CatalogUnavailableError(DomainError):
    """The catalog cannot be reached, or does not let the scheduler in."""

    kind = Kind.UNAVAILABLE
    reason = "CATALOG_UNAVAILABLE"


class Catalog:
    """Calls to the catalog in the scheduler's own name.

    Every method raises CatalogUnavailableError when there is no answer, and RemoteError when the
    catalog refuses.
    """

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._templates = TemplateServiceStub(channel)
        self._holds = HoldServiceStub(channel)
        self._checkpoints = CheckpointServiceStub(channel)
        self._tokens = TokenServiceStub(channel)

    async def template(self, model_name: str) -> Template:
        """Return a template.

        Raises:
            InvalidFieldError: there is none; whoever named it must choose another.

        """
        request = GetTemplateRequest(model_name=model_name)
        try:
            call = self._templates.GetTemplate(request, timeout=_DEADLINE_S)
            return (await _answer(call)).template
        except RemoteError as error:
            if error.kind is Kind.NOT_FOUND:
                raise InvalidFieldError.of("model_name", error.message) from error
            raise

    async def hold(self, checkpoint_id: str, endpoint_id: str, org_id: str) -> Checkpoint:
        """Keep a checkpoint's bytes for an endpoint; return the checkpoint as it is now."""
        request = CreateHoldRequest(
            checkpoint_id=checkpoint_id, holder_id=endpoint_id, org_id=org_id
        )
        return (await _answer(self._holds.CreateHold(request, timeout=_DEADLINE_S))).checkpoint

    async def release(self, checkpoint_id: str, endpoint_id: str) -> None:
        """Give a hold back; what is not held is no error."""
        request = DeleteHoldRequest(checkpoint_id=checkpoint_id, holder_id=endpoint_id)
        await _answer(self._holds.DeleteHold(request, timeout=_DEADLINE_S))

    async def checkpoint(self, checkpoint_id: str) -> Checkpoint | None:
        """Return a checkpoint, deleted ones too; None when there is none with this id."""
        request = GetCheckpointRequest(checkpoint_id=checkpoint_id, show_deleted=True)
        try:
            call = self._checkpoints.GetCheckpoint(request, timeout=_DEADLINE_S)
            return (await _answer(call)).checkpoint
        except RemoteError as error:
            if error.kind is Kind.NOT_FOUND:
                return None
            raise

    async def introspect(self, secret_sha256: str) -> TokenGrant | None:
        """Return what a token may do, by its hash; None when the catalog does not know it."""
        request = IntrospectTokenRequest(secret_sha256=secret_sha256)
        try:
            call = self._tokens.IntrospectToken(request, timeout=_DEADLINE_S)
            return (await _answer(call)).grant
        except RemoteError as error:
            if error.kind is Kind.NOT_FOUND:
                return None
            raise


async def _answer(call: Awaitable[T]) -> T:
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        refused = error_from(error)
        # That it does not let us in is our trouble, not that of whoever calls us.
        ours = (Kind.UNAVAILABLE, Kind.UNAUTHENTICATED, Kind.FORBIDDEN)
        if refused is None or refused.kind in ours:
            raise CatalogUnavailableError(
                f"the catalog does not answer ({error.code().name}); try again"
            ) from error
        raise refused from error
