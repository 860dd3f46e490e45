"""What a server measures of its calls, and what its log says of them."""

import asyncio
from typing import Any

import grpc
import pytest
import structlog
from structlog.contextvars import merge_contextvars
from tests.metrics import sample

from engineshed.api.catalog.v1 import hold_service_pb2 as pb
from engineshed.errors import DomainError, Kind
from engineshed.rpc import RpcServer, open_channel

from .conftest import CHECKPOINT, LIST, METHODS, Callers, call, refused

DELETE = pb.DeleteHoldRequest(checkpoint_id=CHECKPOINT, holder_id="ep_01ARZ3NDEKTSV4RRFFQ69G5FAV")
SERVICE = "engineshed.api.catalog.v1.HoldService"


def calls(server: RpcServer, method: str, code: str, service: str = SERVICE) -> float:
    labels = {"rpc_service": service, "rpc_method": method, "rpc_grpc_status_code": code}
    return sample(server.metrics, "rpc_server_duration_seconds_count", **labels)


async def test_every_call_is_measured_by_method_and_status(served, server) -> None:
    address, _ = served

    await call(address, "es_reader", "ListHolds", LIST)
    await call(address, "es_reader", "ListHolds", LIST)
    await refused(call(address, "es_wrong", "ListHolds", LIST))
    await refused(call(address, "es_admin", "DeleteHold", pb.DeleteHoldRequest()))
    await refused(call(address, "es_admin", "DeleteHold", DELETE))

    assert calls(server, "ListHolds", "OK") == 2
    assert calls(server, "ListHolds", "UNAUTHENTICATED") == 1
    assert calls(server, "DeleteHold", "INVALID_ARGUMENT") == 1
    assert calls(server, "DeleteHold", "INTERNAL") == 1


async def test_calls_are_active_until_they_end(served, server) -> None:
    address, holds = served
    holds.may_answer.clear()

    async with open_channel(address, "es_reader", "test") as channel:
        reply = asyncio.ensure_future(
            channel.unary_unary(
                METHODS + "ListHolds",
                request_serializer=pb.ListHoldsRequest.SerializeToString,
                response_deserializer=pb.ListHoldsResponse.FromString,
            )(LIST)
        )
        await holds.called.wait()
        assert sample(server.metrics, "rpc_server_active_requests", rpc_service=SERVICE) == 1
        holds.may_answer.set()
        await reply

    assert sample(server.metrics, "rpc_server_active_requests", rpc_service=SERVICE) == 0


class StandbyError(DomainError):
    kind = Kind.UNAVAILABLE
    reason = "STANDBY"


async def test_what_callers_make_up_is_one_series() -> None:
    access = {METHODS + "ListHolds": None}
    server = RpcServer("127.0.0.1:0", Callers(), access, lambda: StandbyError("not now"))  # type: ignore[arg-type]  # nobody gets as far
    address = await server.start()
    async with grpc.aio.insecure_channel(address) as channel:
        for number in range(3):
            method: Any = channel.unary_unary(f"/made.Up/Method{number}")
            await refused(method(b""))
    await server.stop(0)

    assert calls(server, "_OTHER", "UNAVAILABLE", "_OTHER") == 3
    assert "made.Up" not in str(list(server.metrics.collect()))


@pytest.fixture
def logged():
    """What is logged, with the context that is bound."""
    entries: list[dict[str, object]] = []

    def keep(_logger, method, event):
        entries.append({**event, "level": method})
        raise structlog.DropEvent

    before = structlog.get_config()
    structlog.configure(processors=[merge_contextvars, keep], cache_logger_on_first_use=False)
    yield entries
    structlog.configure(**before)


async def test_log_lines_of_a_call_carry_its_request_id_and_what_it_is_about(
    served, logged
) -> None:
    address, _ = served

    error = await refused(call(address, "es_admin", "DeleteHold", DELETE))

    (request_id,) = [value for key, value in error.trailing_metadata() if key == "x-request-id"]
    (line,) = [entry for entry in logged if entry["event"] == "call failed"]
    assert line["request_id"] == request_id
    assert line["org"] == "org_1"
    assert line["checkpoint"] == CHECKPOINT
