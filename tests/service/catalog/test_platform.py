"""What comes with the platform, and what strangers see of each other."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from engineshed import ids
from engineshed.api.catalog.v1 import (
    checkpoint_service_pb2,
    hold_service_pb2,
    organization_service_pb2,
    template_service_pb2,
    token_service_pb2,
)
from engineshed.api.catalog.v1.checkpoint_service_pb2 import (
    Checkpoint,
    DeleteCheckpointRequest,
    ListCheckpointsRequest,
)
from engineshed.api.catalog.v1.hold_service_pb2 import CreateHoldRequest
from engineshed.api.catalog.v1.template_service_pb2 import (
    GetTemplateRequest,
    ListTemplatesRequest,
    Template,
)
from engineshed.api.catalog.v1.token_service_pb2 import ListTokensRequest, RevokeTokenRequest
from engineshed.api.events.v1 import event_service_pb2
from engineshed.api.events.v1.event_service_pb2 import Event, ReadEventsRequest
from engineshed.catalog.access import ACCESS

from .conftest import Caller, Catalog, refused

CallAs = Callable[[Catalog, str], Caller]
Model = Callable[..., Path]


async def _sample(caller: Caller) -> Template:
    request = GetTemplateRequest(model_name="engineshed/sample")
    template: Template = (await caller.templates.GetTemplate(request)).template
    return template


async def test_templates_are_there_for_everybody_who_may_read_endpoints(
    admin: Caller, catalog: Catalog, call: CallAs
) -> None:
    reader = call(catalog, await admin.new_token("endpoints:read"))

    listed = await reader.templates.ListTemplates(ListTemplatesRequest())

    names = [template.model_name for template in listed.templates]
    assert names == ["custom", "engineshed/sample"]
    assert listed.templates[1] == await _sample(reader)
    with refused("TEMPLATE_NOT_FOUND"):
        await reader.templates.GetTemplate(GetTemplateRequest(model_name="nobody/nothing"))


async def test_the_sample_can_be_read_and_held_by_all_and_deleted_by_none(
    admin: Caller, operator: Caller, scheduler: Caller
) -> None:
    template = await _sample(admin)

    record = await admin.settled(template.checkpoint_id)

    assert record.state == Checkpoint.STATE_REGISTERED, record.state_reason
    assert record.org_id == ids.PLATFORM
    assert record.has_chat_template
    assert template.flavors[0].precision == "float32"
    assert not (await admin.checkpoints.ListCheckpoints(ListCheckpointsRequest())).checkpoints
    for caller in (admin, operator):
        with refused("PLATFORM_CHECKPOINT"):
            await caller.checkpoints.DeleteCheckpoint(
                DeleteCheckpointRequest(checkpoint_id=record.checkpoint_id)
            )
    tokens = await admin.tokens.ListTokens(ListTokensRequest())
    request = CreateHoldRequest(
        checkpoint_id=record.checkpoint_id,
        holder_id=ids.new(ids.ENDPOINT),
        org_id=tokens.tokens[0].org_id,
    )
    held = (await scheduler.holds.CreateHold(request)).checkpoint
    assert held.digest == record.digest


async def test_nobody_else_can_name_the_sample_as_a_source(admin: Caller, model: Model) -> None:
    with refused("CHECKPOINT_INVALID"):
        await admin.register(model(), uri="engineshed-sample:x")


async def test_a_stranger_finds_nothing(admin: Caller, stranger: Caller, model: Model) -> None:
    record = await admin.settled((await admin.register(model())).checkpoint_id)
    token = (await admin.tokens.ListTokens(ListTokensRequest())).tokens[0]

    with refused("CHECKPOINT_NOT_FOUND"):
        await stranger.get(record.checkpoint_id)
    with refused("CHECKPOINT_NOT_FOUND"):
        await stranger.get(record.checkpoint_id, show_deleted=True)
    with refused("CHECKPOINT_NOT_FOUND"):
        await stranger.checkpoints.DeleteCheckpoint(
            DeleteCheckpointRequest(checkpoint_id=record.checkpoint_id)
        )
    with refused("TOKEN_NOT_FOUND"):
        await stranger.tokens.RevokeToken(RevokeTokenRequest(token_id=token.token_id))
    assert not (await stranger.checkpoints.ListCheckpoints(ListCheckpointsRequest())).checkpoints
    listed = (await stranger.tokens.ListTokens(ListTokensRequest())).tokens
    assert token.org_id not in {each.org_id for each in listed}


async def _events(caller: Caller, **fields: Any) -> list[Event]:
    request = ReadEventsRequest(**fields)
    return [answer.event async for answer in caller.events.ReadEvents(request)]


async def test_everybody_reads_the_events_of_their_own_organization(
    admin: Caller, stranger: Caller, operator: Caller, scheduler: Caller, model: Model
) -> None:
    record = await admin.settled((await admin.register(model())).checkpoint_id)
    stream = f"checkpoint/{record.checkpoint_id}"

    seen = await _events(admin, stream=stream)

    kinds = [event.data.TypeName().rpartition(".")[2] for event in seen]
    assert kinds == ["CheckpointRegistrationStarted", "CheckpointRegistered"]
    assert [event.version for event in seen] == [1, 2]
    assert seen[0].actor.startswith("tok_")
    assert seen[1].actor == "catalog"
    assert {event.org_id for event in await _events(admin)} == {record.org_id}
    assert await _events(stranger, stream=stream) == []
    with refused("PERMISSION_DENIED"):
        await _events(stranger, org_id=record.org_id)
    for caller in (operator, scheduler):
        assert await _events(caller, stream=stream) == seen
        assert await _events(caller, org_id=record.org_id, types=[seen[1].data.TypeName()]) == [
            seen[1]
        ]


async def test_what_does_not_exist_and_what_is_a_strangers_look_the_same(
    admin: Caller, stranger: Caller, model: Model
) -> None:
    record = await admin.register(model())
    nothing = ids.new(ids.CHECKPOINT)

    with refused("CHECKPOINT_NOT_FOUND") as theirs:
        await stranger.get(record.checkpoint_id)
    with refused("CHECKPOINT_NOT_FOUND") as none:
        await stranger.get(nothing)

    assert theirs[0].message.replace(record.checkpoint_id, nothing) == none[0].message


SERVICES = {
    service.full_name: service
    for module in (
        checkpoint_service_pb2,
        event_service_pb2,
        hold_service_pb2,
        organization_service_pb2,
        template_service_pb2,
        token_service_pb2,
    )
    for service in module.DESCRIPTOR.services_by_name.values()
}
METHODS = [
    f"/{service.full_name}/{method.name}"
    for service in SERVICES.values()
    for method in service.methods
]


def test_every_method_has_an_entry_in_the_access_table() -> None:
    assert set(METHODS) == set(ACCESS)


@pytest.mark.parametrize("method", METHODS)
async def test_no_method_answers_without_the_right_token(
    method: str, admin: Caller, catalog: Catalog, call: CallAs
) -> None:
    needed = ACCESS[method].scope
    others = {"inference", "endpoints:read", "artifacts:read"} - {needed}
    streams = "EventService" in method
    callers = {
        "": grpc.StatusCode.UNAUTHENTICATED,
        "es_unknown": grpc.StatusCode.UNAUTHENTICATED,
        await admin.new_token(*others): grpc.StatusCode.PERMISSION_DENIED,
    }
    for secret, code in callers.items():
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await _call(call(catalog, secret), method, streams=streams)
        assert raised.value.code() == code


async def _call(caller: Caller, method: str, *, streams: bool) -> None:
    """Call a method with an empty request."""
    if streams:
        stream: Any = caller.channel.unary_stream(method)
        async for _ in stream(b""):
            pass
    else:
        raw: Any = caller.channel.unary_unary(method)
        await raw(b"")
