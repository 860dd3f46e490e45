"""A real server and a real channel between them: who may call, and what errors look like."""

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest

from engineshed.api.catalog.v1 import hold_service_pb2 as pb
from engineshed.api.catalog.v1 import hold_service_pb2_grpc as stubs
from engineshed.auth import Principal, UnauthenticatedError
from engineshed.errors import DomainError, FieldError, Kind
from engineshed.rpc import Access, Call, RpcServer, current_call, error_from, open_channel

CHECKPOINT = "ckpt_01ARZ3NDEKTSV4RRFFQ69G5FAV"
METHODS = "/engineshed.api.catalog.v1.HoldService/"


class HeldError(DomainError):
    kind = Kind.REFUSED
    reason = "HELD"


class Callers:
    async def authenticate(self, secret: str) -> Principal:
        if secret == "svc_scheduler":
            return Principal("scheduler", "_platform", frozenset(), is_service=True)
        if secret == "es_reader":
            return Principal("tok_1", "org_1", frozenset({"artifacts:read"}))
        if secret == "es_admin":
            return Principal("tok_2", "org_1", frozenset({"admin"}))
        raise UnauthenticatedError("unknown token")


class Holds(stubs.HoldServiceServicer):
    def __init__(self) -> None:
        self.calls: list[Call] = []

    async def ListHolds(self, request, context):
        self.calls.append(current_call())
        return pb.ListHoldsResponse()

    async def CreateHold(self, request, context):
        raise HeldError("held", fields=[FieldError("holder_id", "wrong")], holder="ep_1")

    async def DeleteHold(self, request, context):
        raise ZeroDivisionError("a secret detail")


@pytest.fixture
async def served() -> AsyncIterator[tuple[str, Holds]]:
    holds = Holds()
    server = RpcServer(
        "127.0.0.1:0",
        Callers(),
        {
            METHODS + "ListHolds": Access("artifacts:read", frozenset({"scheduler"})),
            METHODS + "CreateHold": Access(None, frozenset({"scheduler"})),
            METHODS + "DeleteHold": Access("admin"),
        },
    )
    server.add(stubs.add_HoldServiceServicer_to_server, holds)
    address = await server.start()
    yield address, holds
    await server.stop(0)


async def call(address: str, token: str | None, method: str, request: object) -> object:
    async with open_channel(address, token, "test") as channel:
        return await getattr(stubs.HoldServiceStub(channel), method)(request)


async def refused(address: str, token: str | None, method: str, request: object):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(address, token, method, request)
    return caught.value


LIST = pb.ListHoldsRequest(checkpoint_id=CHECKPOINT)


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

    error = await refused(address, token, "ListHolds", LIST)

    assert error.code() == grpc.StatusCode.UNAUTHENTICATED
    assert not holds.calls


async def test_a_method_for_services_is_closed_to_tokens_and_to_other_services(served) -> None:
    address, _ = served
    error = await refused(address, "es_admin", "CreateHold", pb.CreateHoldRequest())
    assert error.code() == grpc.StatusCode.PERMISSION_DENIED
    error = await refused(address, "svc_scheduler", "DeleteHold", pb.DeleteHoldRequest())
    assert error.code() == grpc.StatusCode.PERMISSION_DENIED


async def test_an_invalid_request_is_refused_with_the_field_before_the_method_runs(served) -> None:
    address, holds = served

    error = await refused(address, "es_reader", "ListHolds", pb.ListHoldsRequest(checkpoint_id="x"))

    remote = error_from(error)
    assert remote is not None
    assert remote.kind is Kind.INVALID
    assert [item.field for item in remote.fields] == ["checkpoint_id"]
    assert not holds.calls


async def test_a_domain_error_arrives_with_its_kind_reason_fields_and_facts(served) -> None:
    address, _ = served
    request = pb.CreateHoldRequest(
        checkpoint_id=CHECKPOINT,
        holder_id="ep_01ARZ3NDEKTSV4RRFFQ69G5FAV",
        org_id="_platform",
    )

    remote = error_from(await refused(address, "svc_scheduler", "CreateHold", request))

    assert remote is not None
    assert (remote.kind, remote.reason, remote.message) == (Kind.REFUSED, "HELD", "held")
    assert remote.fields == (FieldError("holder_id", "wrong"),)
    assert remote.facts == {"holder": "ep_1"}


async def test_a_bug_tells_the_caller_nothing_but_the_request_id(served) -> None:
    address, _ = served
    request = pb.DeleteHoldRequest(
        checkpoint_id=CHECKPOINT, holder_id="ep_01ARZ3NDEKTSV4RRFFQ69G5FAV"
    )

    error = await refused(address, "es_admin", "DeleteHold", request)

    assert error.code() == grpc.StatusCode.INTERNAL
    assert "secret" not in str(error.details())
    assert "request id" in str(error.details())


async def test_a_server_that_does_not_answer_is_unavailable() -> None:
    async def silent(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        remote = error_from(await refused(f"127.0.0.1:{port}", "es_admin", "ListHolds", LIST))

    assert remote is not None
    assert remote.kind is Kind.UNAVAILABLE
