"""CheckpointService over gRPC."""

import asyncio
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from grpc.aio import ServicerContext

from engineshed import ids
from engineshed.api.catalog.v1 import checkpoint_service_pb2 as pb
from engineshed.api.catalog.v1.checkpoint_service_pb2_grpc import CheckpointServiceServicer
from engineshed.auth import Principal
from engineshed.auth.principal import OPERATOR
from engineshed.catalog.commands import (
    by_caller,
    change_checkpoint,
    fold_record,
    moment_of,
    once,
    recall,
)
from engineshed.catalog.domain.checkpoint import Delete, Register, decide, stream_of
from engineshed.catalog.domain.errors import CheckpointNotFoundError
from engineshed.catalog.domain.record import is_hidden
from engineshed.catalog.inspection import Inspection, inspect
from engineshed.catalog.pages import PageRequest
from engineshed.catalog.registration import Registrar
from engineshed.catalog.sources import OpenSource
from engineshed.catalog.store import CatalogStore, RegisteredSource, keep_source
from engineshed.errors import InvalidFieldError
from engineshed.eventstore import RequestRepeatedError, StreamAppend
from engineshed.rpc import current_call

_INSPECTIONS: Final = 4  # at once; others wait
_SHA256: Final = re.compile(r"[0-9a-f]{64}")


class CheckpointServicer(CheckpointServiceServicer):
    """Interceptors validate the request and give errors their status before and after this."""

    def __init__(
        self,
        store: CatalogStore,
        registrar: Registrar,
        open_source: OpenSource,
    ) -> None:
        self._store = store
        self._registrar = registrar
        self._open_source = open_source
        self._threads = ThreadPoolExecutor(_INSPECTIONS, thread_name_prefix="inspection")

    async def CreateCheckpoint(
        self, request: pb.CreateCheckpointRequest, context: ServicerContext[Any, Any]
    ) -> pb.CreateCheckpointResponse:
        """Look at a directory, and begin to register it."""
        call = current_call()
        _require_hashes(request.sha256)
        checkpoint_id = ids.new(ids.CHECKPOINT)
        idempotency = once(call, "CreateCheckpoint", request, checkpoint_id)
        known = await recall(self._store.events, idempotency)
        if known is not None:
            return await self._first_answer(known)
        anywhere = call.principal.may(OPERATOR)
        found = await self._inspect(request.uri, anywhere=anywhere)
        command = _register(request, checkpoint_id, call.principal, found)
        append = StreamAppend(
            stream_of(checkpoint_id), 0, decide(None, command), by_caller(call, command.org_id)
        )
        source = RegisteredSource(anywhere, found.modified_ns)
        try:
            await self._store.events.append(
                append, idempotency=idempotency, write=keep_source(checkpoint_id, source)
            )
        except RequestRepeatedError as error:
            return await self._first_answer(error.response.decode())
        self._registrar.begin(checkpoint_id, found.contents.size_bytes)
        return await self._first_answer(checkpoint_id)

    async def GetCheckpoint(
        self, request: pb.GetCheckpointRequest, context: ServicerContext[Any, Any]
    ) -> pb.GetCheckpointResponse:
        """Return one checkpoint."""
        if request.HasField("as_of"):
            moment = moment_of(request.as_of, "as_of")
            record = fold_record(
                await self._store.events.load(stream_of(request.checkpoint_id), as_of=moment)
            )
        else:
            record = await self._store.checkpoint(request.checkpoint_id)
            self._add_progress(record)
        if record is None or not _sees(current_call().principal, record, request.show_deleted):
            raise CheckpointNotFoundError.of(request.checkpoint_id)
        return pb.GetCheckpointResponse(checkpoint=record)

    async def ListCheckpoints(
        self, request: pb.ListCheckpointsRequest, context: ServicerContext[Any, Any]
    ) -> pb.ListCheckpointsResponse:
        """Return a page of the organization's checkpoints."""
        page = await self._store.checkpoints(
            current_call().principal.org_id,
            PageRequest.of(request.page_size, request.page_token),
            show_deleted=request.show_deleted,
        )
        for record in page.items:
            self._add_progress(record)
            record.ClearField("files")
        return pb.ListCheckpointsResponse(checkpoints=page.items, next_page_token=page.next_token)

    async def DeleteCheckpoint(
        self, request: pb.DeleteCheckpointRequest, context: ServicerContext[Any, Any]
    ) -> pb.DeleteCheckpointResponse:
        """Hide a checkpoint; its bytes go when nobody holds them."""
        call = current_call()
        org_id = call.principal.org_id
        command = Delete(request.checkpoint_id, org_id, request.etag)
        recorded = await change_checkpoint(
            self._store.events, request.checkpoint_id, command, by_caller(call, org_id)
        )
        (event,) = recorded
        history = await self._store.events.load(event.stream)
        return pb.DeleteCheckpointResponse(checkpoint=fold_record(history[: event.version]))

    async def _inspect(self, uri: str, *, anywhere: bool) -> Inspection:
        def look() -> Inspection:
            return inspect(self._open_source(uri, anywhere))

        return await asyncio.get_running_loop().run_in_executor(self._threads, look)

    async def _first_answer(self, checkpoint_id: str) -> pb.CreateCheckpointResponse:
        """Return what the call was answered that made the checkpoint."""
        history = await self._store.events.load(stream_of(checkpoint_id))
        record = fold_record(history[:1])
        self._add_progress(record)
        return pb.CreateCheckpointResponse(checkpoint=record)

    def _add_progress(self, record: pb.Checkpoint | None) -> None:
        if record is None:
            return
        if record.digest:
            done = record.size_bytes
        else:
            copying = self._registrar.under_way(record.checkpoint_id)
            done = copying.done_bytes if copying else 0
        record.progress.done_bytes = done
        record.progress.total_bytes = record.size_bytes


def _require_hashes(sha256: Mapping[str, str]) -> None:
    """Refuse what is no hash; not by a rule in the proto, which is slow for thousands of them."""
    for path, digest in sha256.items():
        if not _SHA256.fullmatch(digest):
            raise InvalidFieldError.of(f"sha256[{path!r}]", "it is not 64 hexadecimal digits")


def _register(
    request: pb.CreateCheckpointRequest, checkpoint_id: str, caller: Principal, found: Inspection
) -> Register:
    return Register(
        checkpoint_id=checkpoint_id,
        org_id=caller.org_id,
        name=request.name,
        source_uri=request.uri,
        contents=found.contents,
        base_model=request.base_model,
        expected_digest=request.digest,
        expected_sha256=dict(request.sha256),
    )


def _sees(caller: Principal, record: pb.Checkpoint, show_deleted: bool) -> bool:
    whose = record.org_id in (caller.org_id, ids.PLATFORM) or caller.sees_all
    return whose and (show_deleted or not is_hidden(record))
