"""A real server and a real channel between them: who may call, and what errors look like."""

import asyncio

import grpc
import pytest

from engineshed.api.catalog.v1 import hold_service_pb2 as pb
from engineshed.api.catalog.v1 import token_service_pb2 as tokens
from engineshed.api.catalog.v1.hold_service_pb2_grpc import HoldServiceStub
from engineshed.api.catalog.v1.token_service_pb2_grpc import TokenServiceStub
from engineshed.auth import Principal
from engineshed.errors import FieldError, Kind
from engineshed.rpc import Call, error_from, open_channel
from engineshed.rpc.call import set_current_call

from .conftest import CHECKPOINT, LIST, HeldError, call, refused


async def test_a_token_with_the_scope_may_call_and_the_method_knows_who_did(served) -> None:
    address, holds = served

    await call(address, "es_reader", "ListHolds", LIST)

    assert holds.calls[0].principal.org_id == "org_1"
    assert holds.calls[0].request_id


async def test_admin_has_every_scope_of_its_organization(served) -> None:
    address, _ = served
    assert await call(address, "es_admin", "ListHolds", LIST) == pb.ListHoldsResponse()


@pytest.mark.parametrize("token", [None, "es_wrong", ""])
async def test_without_a_valid_token_nothing_can_be_called(served, token) -> None:
    address, holds = served

    error = await refused(call(address, token, "ListHolds", LIST))

    assert error.code() == grpc.StatusCode.UNAUTHENTICATED
    assert not holds.calls


async def test_a_method_for_services_is_closed_to_tokens_and_to_other_services(served) -> None:
    address, _ = served
    error = await refused(call(address, "es_admin", "CreateHold", pb.CreateHoldRequest()))
    assert error.code() == grpc.StatusCode.PERMISSION_DENIED
    error = await refused(call(address, "svc_scheduler", "DeleteHold", pb.DeleteHoldRequest()))
    assert error.code() == grpc.StatusCode.PERMISSION_DENIED


async def test_an_invalid_request_is_refused_with_the_field_before_the_method_runs(served) -> None:
    address, holds = served

    request = pb.ListHoldsRequest(checkpoint_id="x")
    error = await refused(call(address, "es_reader", "ListHolds", request))

    remote = error_from(error)
    assert remote is not None
    assert remote.kind is Kind.INVALID
    assert [item.field for item in remote.fields] == ["checkpoint_id"]
    assert not holds.calls


async def create_token(address: str, scopes: list[str]) -> object:
    async with open_channel(address, "es_admin", "test") as channel:
        request = tokens.CreateTokenRequest(name="t", scopes=scopes)
        return await TokenServiceStub(channel).CreateToken(request)


async def test_an_invalid_item_is_named_by_its_place_in_the_list(served) -> None:
    address, _ = served

    remote = error_from(await refused(create_token(address, ["inference", "x", "admin", "y"])))

    assert remote is not None
    assert [item.field for item in remote.fields] == ["scopes[1]", "scopes[3]"]


async def test_a_list_that_is_too_long_is_refused_without_a_look_at_its_items(served) -> None:
    address, _ = served

    remote = error_from(await refused(create_token(address, ["x"] * 100_000)))

    assert remote is not None
    assert remote.kind is Kind.INVALID
    assert [item.field for item in remote.fields] == ["scopes"]


async def test_what_is_too_long_for_a_client_arrives_cut_off(served) -> None:
    address, holds = served
    fields = [FieldError(f"names[{'ß' * number}]", "ü" * 500) for number in range(500)]
    holds.error = HeldError("ä" * 20_000, fields=fields, file="é" * 5_000)
    request = pb.CreateHoldRequest(
        checkpoint_id=CHECKPOINT,
        holder_id="ep_01ARZ3NDEKTSV4RRFFQ69G5FAV",
        org_id="_platform",
    )

    remote = error_from(await refused(call(address, "svc_scheduler", "CreateHold", request)))

    assert remote is not None
    assert (remote.kind, remote.reason) == (Kind.REFUSED, "HELD")
    assert remote.message.startswith("ää")
    assert remote.message.endswith("ä…")
    assert remote.fields[0].field == "names[]"
    assert remote.facts["file"].startswith("éé")


async def test_a_name_that_is_no_unicode_does_not_hide_the_error(served) -> None:
    address, holds = served
    holds.error = HeldError("no file \udcff", fields=[FieldError("\udcff", "\udcff")], f="\udcff")
    request = pb.CreateHoldRequest(
        checkpoint_id=CHECKPOINT,
        holder_id="ep_01ARZ3NDEKTSV4RRFFQ69G5FAV",
        org_id="_platform",
    )

    remote = error_from(await refused(call(address, "svc_scheduler", "CreateHold", request)))

    assert remote is not None
    assert (remote.reason, remote.message) == ("HELD", "no file ?")


async def test_a_domain_error_arrives_with_its_kind_reason_fields_and_facts(served) -> None:
    address, _ = served
    request = pb.CreateHoldRequest(
        checkpoint_id=CHECKPOINT,
        holder_id="ep_01ARZ3NDEKTSV4RRFFQ69G5FAV",
        org_id="_platform",
    )

    remote = error_from(await refused(call(address, "svc_scheduler", "CreateHold", request)))

    assert remote is not None
    assert (remote.kind, remote.reason, remote.message) == (Kind.REFUSED, "HELD", "held")
    assert remote.fields == (FieldError("holder_id", "wrong"),)
    assert remote.facts == {"holder": "ep_1"}


async def test_a_bug_tells_the_caller_nothing_but_the_request_id(served) -> None:
    address, _ = served
    request = pb.DeleteHoldRequest(
        checkpoint_id=CHECKPOINT, holder_id="ep_01ARZ3NDEKTSV4RRFFQ69G5FAV"
    )

    error = await refused(call(address, "es_admin", "DeleteHold", request))

    assert error.code() == grpc.StatusCode.INTERNAL
    assert "secret" not in str(error.details())
    assert "request id" in str(error.details())


async def test_a_server_that_does_not_answer_is_unavailable() -> None:
    async def silent(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        remote = error_from(await refused(call(f"127.0.0.1:{port}", "es_admin", "ListHolds", LIST)))

    assert remote is not None
    assert remote.kind is Kind.UNAVAILABLE


async def test_a_server_that_gives_a_call_up_is_unavailable(served) -> None:
    address, holds = served
    holds.error = asyncio.CancelledError()  # as when it ends
    request = pb.CreateHoldRequest(
        checkpoint_id=CHECKPOINT,
        holder_id="ep_01ARZ3NDEKTSV4RRFFQ69G5FAV",
        org_id="_platform",
    )

    remote = error_from(await refused(call(address, "svc_scheduler", "CreateHold", request)))

    assert remote is not None
    assert remote.kind is Kind.UNAVAILABLE


async def test_a_call_has_a_deadline_although_its_caller_set_none(served) -> None:
    address, holds = served

    await call(address, "es_reader", "ListHolds", LIST)

    assert None not in holds.deadlines


async def test_a_request_keeps_its_id_from_service_to_service(served) -> None:
    address, holds = served
    set_current_call(Call(Principal("tok_1", "org_1", frozenset()), "req-1"))

    await call(address, "svc_scheduler", "ListHolds", LIST)

    assert holds.calls[0].request_id == "req-1"


async def test_a_caller_learns_the_id_of_its_request(served) -> None:
    address, holds = served
    async with open_channel(address, "es_reader", "test") as channel:
        calling = HoldServiceStub(channel).ListHolds(LIST, metadata=[("x-request-id", 'a "b"')])
        await calling
        answered = dict(await calling.trailing_metadata())

    assert answered["x-request-id"] == holds.calls[0].request_id
    assert answered["x-request-id"] != 'a "b"'  # what is not safe to log is replaced
