"""A trace goes from service to service; here where nothing is exported, so it is only passed on."""

import asyncio

import pytest

from engineshed.api.catalog.v1.hold_service_pb2_grpc import HoldServiceStub
from engineshed.rpc import open_channel
from engineshed.telemetry.tracing import start_span

from .conftest import LIST

GIVEN = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


async def ask(address: str, *metadata: tuple[str, str]) -> None:
    async with open_channel(address, "es_reader", "test") as channel:
        await HoldServiceStub(channel).ListHolds(LIST, metadata=metadata)


async def test_calls_on_account_of_a_trace_carry_it(served) -> None:
    address, holds = served

    async def work() -> None:
        start_span("work", GIVEN).enter()
        await ask(address)

    await asyncio.create_task(work())
    await ask(address)

    assert [call.traceparent for call in holds.calls] == [GIVEN, ""]


@pytest.mark.parametrize("nonsense", ["x", GIVEN.upper(), "00-" + "0" * 32 + GIVEN[35:]])
async def test_what_is_no_traceparent_gets_no_further(served, nonsense: str) -> None:
    address, holds = served
    await ask(address, ("traceparent", nonsense))
    assert holds.calls[0].traceparent == ""
