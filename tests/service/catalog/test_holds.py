"""Bytes stay while somebody reads them, and go by themselves afterwards."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
from tests.service.eventstore.servers import ON_EACH_DATABASE

from engineshed import ids
from engineshed.api.catalog.v1.checkpoint_service_pb2 import (
    Checkpoint,
    DeleteCheckpointRequest,
    ListCheckpointsRequest,
)
from engineshed.api.catalog.v1.hold_service_pb2 import (
    CreateHoldRequest,
    DeleteHoldRequest,
    ListHoldsRequest,
)
from engineshed.api.events.v1.event_service_pb2 import ReadEventsRequest
from engineshed.api.scheduler.v1.endpoint_service_pb2 import (
    Endpoint,
    GetEndpointRequest,
    GetEndpointResponse,
)
from engineshed.api.scheduler.v1.endpoint_service_pb2_grpc import (
    EndpointServiceServicer,
    add_EndpointServiceServicer_to_server,
)
from engineshed.auth import ServiceTokens, hash_token
from engineshed.errors import DomainError, Kind
from engineshed.rpc import Access, RpcServer

from .conftest import Caller, Catalog, eventually, refused, service_token
from .models import write_model, write_sparse

Model = Callable[..., Path]


async def _hold(scheduler: Caller, record: Checkpoint, holder_id: str, org_id: str = "") -> None:
    await scheduler.holds.CreateHold(
        CreateHoldRequest(
            checkpoint_id=record.checkpoint_id,
            holder_id=holder_id,
            org_id=org_id or record.org_id,
        )
    )


async def _release(scheduler: Caller, record: Checkpoint, holder_id: str) -> None:
    await scheduler.holds.DeleteHold(
        DeleteHoldRequest(checkpoint_id=record.checkpoint_id, holder_id=holder_id)
    )


async def _delete(caller: Caller, record: Checkpoint, etag: str = "") -> Checkpoint:
    request = DeleteCheckpointRequest(checkpoint_id=record.checkpoint_id, etag=etag)
    deleted: Checkpoint = (await caller.checkpoints.DeleteCheckpoint(request)).checkpoint
    return deleted


async def _reclaimed(caller: Caller, record: Checkpoint) -> None:
    async def reclaimed() -> bool:
        now = await caller.get(record.checkpoint_id, show_deleted=True)
        return now.state == Checkpoint.STATE_RECLAIMED

    await eventually(reclaimed)


async def _registered(caller: Caller, source: Path) -> Checkpoint:
    record = await caller.settled((await caller.register(source)).checkpoint_id)
    assert record.state == Checkpoint.STATE_REGISTERED, record.state_reason
    return record


async def test_a_deleted_checkpoint_is_hidden_and_its_bytes_go(
    admin: Caller, catalog: Catalog, model: Model
) -> None:
    source = model()
    record = await _registered(admin, source)

    deleted = await _delete(admin, record, etag=record.etag)

    assert deleted.state == Checkpoint.STATE_DELETED
    with refused("CHECKPOINT_NOT_FOUND"):
        await admin.get(record.checkpoint_id)
    assert not (await admin.checkpoints.ListCheckpoints(ListCheckpointsRequest())).checkpoints
    shown = await admin.checkpoints.ListCheckpoints(ListCheckpointsRequest(show_deleted=True))
    assert [each.checkpoint_id for each in shown.checkpoints] == [record.checkpoint_id]
    await _reclaimed(admin, record)
    await eventually(lambda: not (catalog.artifacts / record.checkpoint_id).exists())
    assert (source / "model.safetensors").exists()
    with refused("CHECKPOINT_NOT_FOUND"):
        await _delete(admin, record)


async def test_bytes_stay_until_the_last_hold_is_gone(
    admin: Caller, scheduler: Caller, catalog: Catalog, model: Model
) -> None:
    record = await _registered(admin, model())
    holders = [ids.new(ids.ENDPOINT), ids.new(ids.ENDPOINT)]
    for holder in holders:
        await _hold(scheduler, record, holder)
        await _hold(scheduler, record, holder)  # again: nothing changes
    held = await scheduler.holds.ListHolds(ListHoldsRequest(checkpoint_id=record.checkpoint_id))
    assert [hold.holder_id for hold in held.holds] == holders

    await _delete(admin, record, etag=record.etag)  # holds have not changed the etag
    await _release(scheduler, record, holders[0])
    await _release(scheduler, record, holders[0])

    seen = await scheduler.get(record.checkpoint_id, show_deleted=True)
    assert seen.state == Checkpoint.STATE_DELETED
    assert seen.digest == record.digest
    assert (catalog.artifacts / record.checkpoint_id / "model.safetensors").exists()
    await _hold(scheduler, record, holders[1])  # who has it may ask again
    with refused("CHECKPOINT_NOT_FOUND"):
        await _hold(scheduler, record, ids.new(ids.ENDPOINT))

    await _release(scheduler, record, holders[1])
    await _reclaimed(admin, record)
    await eventually(lambda: not (catalog.artifacts / record.checkpoint_id).exists())


async def test_a_hold_taken_while_deleting_is_either_refused_or_kept(
    admin: Caller, scheduler: Caller, catalog: Catalog, model: Model
) -> None:
    source = model()

    async def race() -> None:
        record = await _registered(admin, source)
        holder = ids.new(ids.ENDPOINT)
        _, taken = await asyncio.gather(
            _delete(admin, record), _hold(scheduler, record, holder), return_exceptions=True
        )
        if taken is None:
            assert (catalog.artifacts / record.checkpoint_id / "model.safetensors").exists()
            await _release(scheduler, record, holder)
        await _reclaimed(admin, record)
        request = ReadEventsRequest(stream=f"checkpoint/{record.checkpoint_id}")
        kinds = [
            answer.event.data.TypeName().rpartition(".")[2]
            async for answer in admin.events.ReadEvents(request)
        ]
        assert kinds[-1] == "CheckpointReclaimed"
        assert kinds.count("HoldTaken") == kinds.count("HoldReleased") == (taken is None)

    await asyncio.gather(*(race() for _ in range(20)))


async def test_a_hold_can_be_taken_while_registering(
    admin: Caller, scheduler: Caller, catalog: Catalog, model: Model
) -> None:
    source = model(model__safetensors=None)
    write_sparse(source / "model.safetensors", 2**27)
    record = await admin.register(source)
    holder = ids.new(ids.ENDPOINT)
    await _hold(scheduler, record, holder)

    await _delete(admin, record)

    # Who holds it still gets what it waits for.
    async def complete() -> bool:
        return bool((await scheduler.get(record.checkpoint_id, show_deleted=True)).digest)

    await eventually(complete)
    assert (catalog.artifacts / record.checkpoint_id / "model.safetensors").exists()
    await _release(scheduler, record, holder)
    await _reclaimed(admin, record)


async def test_deleting_what_nobody_holds_ends_its_registration(
    admin: Caller, catalog: Catalog, model: Model
) -> None:
    source = model(model__safetensors=None)
    write_sparse(source / "model.safetensors", 2**29)
    record = await admin.register(source)

    await _delete(admin, record)

    await _reclaimed(admin, record)
    await eventually(lambda: not list(catalog.artifacts.glob(f"{record.checkpoint_id}*")))
    after = await admin.get(record.checkpoint_id, show_deleted=True)
    assert (after.digest, after.state) == ("", Checkpoint.STATE_RECLAIMED)


async def test_a_failed_checkpoint_cannot_be_held(
    admin: Caller, scheduler: Caller, model: Model
) -> None:
    begun = await admin.register(model(), digest="sha256:" + "f" * 64)
    record = await admin.settled(begun.checkpoint_id)

    with refused("CHECKPOINT_FAILED") as errors:
        await _hold(scheduler, record, ids.new(ids.ENDPOINT))

    assert record.state_reason in errors[0].message


async def test_holds_are_for_services_and_within_an_organization(
    admin: Caller, stranger: Caller, scheduler: Caller, model: Model
) -> None:
    record = await _registered(admin, model())
    other = (await _registered(stranger, model())).org_id
    holder = ids.new(ids.ENDPOINT)

    with refused("PERMISSION_DENIED"):
        await _hold(admin, record, holder)
    with refused("CHECKPOINT_NOT_FOUND"):
        await _hold(scheduler, record, holder, org_id=other)


async def test_an_etag_that_is_no_longer_true_refuses_the_deletion(
    admin: Caller, model: Model
) -> None:
    begun = await admin.register(model())
    record = await admin.settled(begun.checkpoint_id)

    with refused("ETAG_MISMATCH"):
        await _delete(admin, record, etag=begun.etag)
    await _delete(admin, record, etag=record.etag)


@ON_EACH_DATABASE
async def test_what_a_killed_catalog_did_not_remove_goes_at_the_next_start(
    own_catalog: Callable[..., Catalog], call: Callable[[Catalog, str], Caller]
) -> None:
    catalog = own_catalog()
    catalog.start()
    operator = call(catalog, catalog.admin)
    record = await _registered(operator, write_model(catalog.imports / "model"))
    await _delete(operator, record)
    await _reclaimed(operator, record)
    await eventually(lambda: not (catalog.artifacts / record.checkpoint_id).exists())
    catalog.kill()
    # As if it had been killed between recording and removing, and in the middle of a copy.
    left = catalog.artifacts / record.checkpoint_id
    scratch = catalog.artifacts / f"{record.checkpoint_id}.tmp-12345678"
    foreign = catalog.artifacts / "ckpt_01J00000000000000000000000"
    for folder in (left, scratch, foreign):
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"x")
    left.chmod(0o555)

    catalog.start()

    await eventually(lambda: not left.exists() and not scratch.exists())
    assert foreign.exists()  # what nobody knows is not the catalog's to remove


class ScriptedScheduler(EndpointServiceServicer):
    """A scheduler that knows some endpoints, or fails."""

    def __init__(self) -> None:
        self.known: set[str] = set()
        self.failing = True
        self.asked: list[str] = []

    async def GetEndpoint(
        self, request: GetEndpointRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> GetEndpointResponse:
        self.asked.append(request.endpoint_id)
        if self.failing:
            raise RuntimeError("no answer")
        if request.endpoint_id not in self.known:
            raise EndpointNotFoundError("no such endpoint")
        return GetEndpointResponse(endpoint=Endpoint(endpoint_id=request.endpoint_id))


class EndpointNotFoundError(DomainError):
    kind = Kind.NOT_FOUND
    reason = "ENDPOINT_NOT_FOUND"


async def test_a_hold_whose_endpoint_never_came_to_be_is_given_back(
    own_catalog: Callable[..., Catalog], call: Callable[[Catalog, str], Caller]
) -> None:
    scripted = ScriptedScheduler()  # type: ignore[abstract]  # the others are not called
    tokens = ServiceTokens({"catalog": hash_token(service_token("catalog"))})
    method = "/engineshed.api.scheduler.v1.EndpointService/GetEndpoint"
    server = RpcServer("127.0.0.1:0", tokens, {method: Access(None, frozenset({"catalog"}))})
    server.add(add_EndpointServiceServicer_to_server, scripted)
    catalog = own_catalog(
        ENGINESHED_SCHEDULER_ADDRESS=await server.start(),
        ENGINESHED_ORPHAN_HOLD_AGE_S="0.5",
        ENGINESHED_ORPHAN_CHECK_INTERVAL_S="0.1",
    )
    catalog.start()
    scheduler = call(catalog, service_token("scheduler"))
    operator = call(catalog, catalog.admin)
    record = await _registered(operator, write_model(catalog.imports / "model"))
    born, orphan = ids.new(ids.ENDPOINT), ids.new(ids.ENDPOINT)
    scripted.known = {born}
    for holder in (born, orphan):
        await _hold(scheduler, record, holder)

    async def holders() -> list[str]:
        request = ListHoldsRequest(checkpoint_id=record.checkpoint_id)
        return [hold.holder_id for hold in (await scheduler.holds.ListHolds(request)).holds]

    # As long as the scheduler does not answer, nothing is given back.
    await eventually(lambda: len(scripted.asked) >= 3)
    assert await holders() == [born, orphan]

    scripted.failing = False

    async def given_back() -> bool:
        return await holders() == [born]

    await eventually(given_back)
    catalog.kill()
    await server.stop(0)
