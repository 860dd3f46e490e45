"""A small service behind a real server, and callers of it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable

import grpc
import pytest

from engineshed.api.catalog.v1 import hold_service_pb2 as pb
from engineshed.api.catalog.v1 import hold_service_pb2_grpc as stubs
from engineshed.api.catalog.v1.token_service_pb2_grpc import (
    TokenServiceServicer,
    add_TokenServiceServicer_to_server,
)
from engineshed.auth import Principal, UnauthenticatedError
from engineshed.errors import DomainError, FieldError, Kind
from engineshed.rpc import Access, Call, RpcServer, current_call, open_channel

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
        self.deadlines: list[float | None] = []
        self.error = HeldError("held", fields=[FieldError("holder_id", "wrong")], holder="ep_1")
        self.called = asyncio.Event()
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def ListHolds(self, request, context):
        self.calls.append(current_call())
        self.deadlines.append(context.time_remaining())
        self.called.set()
        await self.may_answer.wait()
        return pb.ListHoldsResponse()

    async def CreateHold(self, request, context):
        raise self.error

    async def DeleteHold(self, request, context):
        raise ZeroDivisionError("a secret detail")


@pytest.fixture
def holds() -> Holds:
    return Holds()


@pytest.fixture
async def server(holds: Holds) -> AsyncIterator[RpcServer]:
    """A server that has not been started yet."""
    server = RpcServer(
        "127.0.0.1:0",
        Callers(),
        {
            METHODS + "ListHolds": Access("artifacts:read", frozenset({"scheduler"})),
            METHODS + "CreateHold": Access(None, frozenset({"scheduler"})),
            METHODS + "DeleteHold": Access("admin"),
            "/engineshed.api.catalog.v1.TokenService/CreateToken": Access("admin"),
        },
    )
    server.add(stubs.add_HoldServiceServicer_to_server, holds)
    nobody_gets_through = TokenServiceServicer()  # type: ignore[abstract]  # no method is reached
    server.add(add_TokenServiceServicer_to_server, nobody_gets_through)
    yield server
    holds.may_answer.set()
    await server.stop(0)


@pytest.fixture
async def served(server: RpcServer, holds: Holds) -> tuple[str, Holds]:
    return await server.start(), holds


async def call(address: str, token: str | None, method: str, request: object) -> object:
    async with open_channel(address, token, "test") as channel:
        return await getattr(stubs.HoldServiceStub(channel), method)(request)


async def refused(call: Awaitable[object]) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


LIST = pb.ListHoldsRequest(checkpoint_id=CHECKPOINT)
