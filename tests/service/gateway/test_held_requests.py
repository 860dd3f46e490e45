"""How many requests are held, and what ends their waiting."""

import asyncio
from typing import Any

import pytest
from tests.metrics import sample
from tests.service.gateway.fake_replica import FakeReplica
from tests.service.gateway.idle import OTHER, Gateway, Start, eventually

from engineshed.gateway.dataplane import waking
from engineshed.gateway.dataplane.waking import Limits


async def test_one_endpoint_holds_so_many_requests_and_no_more(start: Start) -> None:
    gateway = await start(Limits(requests_of_endpoint=2))
    gateway.route(status="idle")
    gateway.route(status="idle", key=OTHER)
    await gateway.hold(2)

    refused = await gateway.ask()

    assert (refused.status, refused.code) == (503, "endpoint_waking")
    assert "too many" in str(refused.body)
    assert "Retry-After" in refused.headers
    await gateway.hold(key=OTHER)


async def test_who_finds_no_place_wakes_the_endpoint_nevertheless(start: Start) -> None:
    gateway = await start(Limits(requests=1))
    gateway.route(status="idle")
    gateway.route(status="idle", key=OTHER)
    await gateway.hold()

    refused = await gateway.ask(key=OTHER)

    assert (refused.status, refused.code) == (503, "endpoint_waking")
    await eventually(lambda: (f"ep_{OTHER}", "es_one") in gateway.scheduler.calls)


async def test_what_is_held_takes_so_much_memory_and_no_more(start: Start) -> None:
    gateway = await start(Limits(body_bytes=1000))
    gateway.route(status="idle")
    (asking,) = await gateway.hold(user="x" * 600)
    assert "too many" in str((await gateway.ask(user="x" * 600)).body)
    await gateway.hold()  # a small one

    asking.cancel()
    await eventually(lambda: gateway.metrics.held == 1)
    await gateway.hold(user="x" * 600)


async def test_a_client_that_leaves_while_it_is_held_is_forgotten_at_once(
    start: Start, replicas: list[FakeReplica]
) -> None:
    gateway = await start(Limits(requests_of_endpoint=1))
    gateway.route(status="idle")
    (asking,) = await gateway.hold()

    asking.cancel()
    await eventually(lambda: gateway.metrics.held == 0)
    assert sample(gateway.metrics, "engineshed_gateway_requests_in_flight") == 0
    assert sample(gateway.metrics, "engineshed_gateway_clients_gone_total") == 1

    (another,) = await gateway.hold()
    gateway.route(replicas[0])
    assert (await another).status == 200
    assert replicas[0].seen["answer"] == 1


async def test_nobody_goes_on_waking_for_clients_that_left(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waking, "AGAIN_SECONDS", 0.01)
    gateway.route(status="idle")
    (asking,) = await gateway.hold()
    assert wakers()
    asking.cancel()
    await eventually(lambda: not wakers())
    assert gateway.metrics.held == 0


def wakers() -> list[str]:
    return [repr(task) for task in asyncio.all_tasks() if "_until_awake" in repr(task)]


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"status": "stopping"}, "endpoint_stopped"),
        ({"status": "stopped", "wake_timeout": None}, "endpoint_stopped"),
        ({"status": "failed", "status_reason": "too big"}, "endpoint_failed"),
    ],
)
async def test_a_held_request_learns_at_once_that_there_is_nothing_to_wait_for(
    gateway: Gateway, fields: dict[str, Any], code: str
) -> None:
    gateway.route(status="idle")
    (asking,) = await gateway.hold()

    gateway.route(**fields)

    answer = await asking
    assert (answer.status, answer.code) == (404, code)
    assert (await gateway.ask()).code == code


async def test_a_held_request_learns_at_once_that_its_endpoint_is_deleted(gateway: Gateway) -> None:
    gateway.route(status="idle")
    (asking,) = await gateway.hold()

    gateway.delete()

    answer = await asking
    assert (answer.status, answer.code) == (404, "endpoint_not_found")


async def test_a_held_request_is_refused_at_once_when_its_token_is_revoked_and_others_are_not(
    gateway: Gateway, replicas: list[FakeReplica]
) -> None:
    gateway.route(status="idle")
    (revoked,) = await gateway.hold(token="es_one")
    (valid,) = await gateway.hold(token="es_two")

    gateway.revoke("es_one")

    answer = await revoked
    assert (answer.status, answer.code) == (401, "invalid_api_key")
    gateway.route(replicas[0])
    assert (await valid).status == 200


async def test_a_request_that_was_let_through_takes_no_place_any_more(
    start: Start, replicas: list[FakeReplica]
) -> None:
    gateway = await start(Limits(requests=1))
    replicas[0].mode = "stall"
    gateway.route(status="idle")
    (asking,) = await gateway.hold()
    gateway.route(replicas[0])
    await replicas[0].began.wait()

    gateway.route(status="idle", key=OTHER)
    await gateway.hold(key=OTHER)

    asking.cancel()
    await eventually(replicas[0].left.is_set)
