"""HoldService over gRPC."""

from typing import Any

from grpc.aio import ServicerContext

from engineshed.api.catalog.v1 import hold_service_pb2 as pb
from engineshed.api.catalog.v1.checkpoint_service_pb2 import Checkpoint
from engineshed.api.catalog.v1.hold_service_pb2_grpc import HoldServiceServicer
from engineshed.catalog.commands import by_caller, change_checkpoint
from engineshed.catalog.domain.checkpoint import ReleaseHold, TakeHold
from engineshed.catalog.domain.errors import CheckpointNotFoundError
from engineshed.catalog.store import CatalogStore
from engineshed.catalog.templates import Templates
from engineshed.rpc import current_call


class HoldServicer(HoldServiceServicer):
    """Interceptors validate the request and give errors their status before and after this."""

    def __init__(self, store: CatalogStore, templates: Templates) -> None:
        self._store = store
        self._templates = templates

    async def CreateHold(
        self, request: pb.CreateHoldRequest, context: ServicerContext[Any, Any]
    ) -> pb.CreateHoldResponse:
        """Keep the bytes of a checkpoint for a holder."""
        record = await self._store.checkpoint(request.checkpoint_id)
        if record is None:
            raise CheckpointNotFoundError.of(request.checkpoint_id)
        offered = record.checkpoint_id in self._templates.checkpoints
        org_id = record.org_id if offered else request.org_id
        command = TakeHold(request.checkpoint_id, org_id, request.holder_id)
        await self._change(record, command)
        return pb.CreateHoldResponse(checkpoint=await self._store.checkpoint(request.checkpoint_id))

    async def DeleteHold(
        self, request: pb.DeleteHoldRequest, context: ServicerContext[Any, Any]
    ) -> pb.DeleteHoldResponse:
        """Give a hold back."""
        record = await self._store.checkpoint(request.checkpoint_id)
        if record is not None:
            await self._change(record, ReleaseHold(request.holder_id))
        return pb.DeleteHoldResponse()

    async def ListHolds(
        self, request: pb.ListHoldsRequest, context: ServicerContext[Any, Any]
    ) -> pb.ListHoldsResponse:
        """Return the holds on a checkpoint."""
        return pb.ListHoldsResponse(holds=await self._store.holds(request.checkpoint_id))

    async def _change(self, record: Checkpoint, command: TakeHold | ReleaseHold) -> None:
        metadata = by_caller(current_call(), record.org_id)
        await change_checkpoint(self._store.events, record.checkpoint_id, command, metadata)
