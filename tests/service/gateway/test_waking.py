"""Requests to endpoints without replicas: held, woken for, let through."""

import asyncio

import pytest
from tests.metrics import sample
from tests.service.gateway.fake_replica import FakeReplica
from tests.service.gateway.idle import KEY, TOKENS, Gateway, eventually

from engineshed.gateway.dataplane import waking


async def test_a_request_to_an_idle_endpoint_wakes_it_and_is_answered_when_it_is_ready(
    gateway: Gateway, replicas: list[FakeReplica]
) -> None:
    gateway.route(status="idle")
    (asking,) = await gateway.hold()
    gateway.route(status="provisioning")
    assert gateway.metrics.held == 1

    gateway.route(replicas[0])

    answer = await asking
    assert (answer.status, answer.body["from"]) == (200, replicas[0].port)
    assert gateway.scheduler.calls == [(f"ep_{KEY}", "es_one")]
    assert gateway.metrics.held == 0
    assert sample(gateway.metrics, "engineshed_gateway_wakes_total", outcome="woken") == 1


@pytest.mark.parametrize("status", ["queued", "provisioning", "running"])
async def test_an_endpoint_that_is_on_its_way_is_waited_for_and_not_woken(
    gateway: Gateway, replicas: list[FakeReplica], status: str
) -> None:
    gateway.route(status=status)
    (asking,) = await gateway.hold()

    gateway.route(replicas[0])

    assert (await asking).status == 200
    assert gateway.scheduler.calls == []


async def test_of_many_requests_at_once_one_wakes_the_endpoint(
    gateway: Gateway, replicas: list[FakeReplica]
) -> None:
    gateway.route(status="idle")
    gateway.scheduler.go_on.clear()
    asking = await gateway.hold(5)
    assert len(gateway.scheduler.calls) == 1
    gateway.scheduler.go_on.set()

    gateway.route(replicas[0])

    assert [answer.status for answer in await asyncio.gather(*asking)] == [200] * 5
    assert len(gateway.scheduler.calls) == 1


@pytest.mark.parametrize("hears", [True, False])
async def test_as_long_as_it_stays_idle_it_is_woken_again_in_everyones_name(
    gateway: Gateway, replicas: list[FakeReplica], monkeypatch: pytest.MonkeyPatch, hears: bool
) -> None:
    monkeypatch.setattr(waking, "AGAIN_SECONDS", 0.01)
    gateway.scheduler.hears = hears
    gateway.route(status="idle")
    asking = [task for token in TOKENS for task in await gateway.hold(token=token)]
    await eventually(lambda: {secret for _, secret in gateway.scheduler.calls} == set(TOKENS))

    gateway.route(replicas[0])

    assert [answer.status for answer in await asyncio.gather(*asking)] == [200] * 3


async def test_an_endpoint_that_falls_idle_again_before_it_was_ready_is_woken_again(
    gateway: Gateway, replicas: list[FakeReplica]
) -> None:
    gateway.route(status="provisioning")
    (asking,) = await gateway.hold()

    gateway.route(status="idle")
    await eventually(lambda: gateway.scheduler.calls)
    gateway.route(replicas[0])

    assert (await asking).status == 200


async def test_a_request_is_given_up_after_the_wake_timeout_with_what_it_waited_for(
    gateway: Gateway,
) -> None:
    reason = "waiting for 2 free GPUs on one h100-sxm node in eu; place 3 in the queue"
    gateway.route(status="queued", status_reason=reason, wake_timeout=0.05)

    answer = await gateway.ask()

    assert (answer.status, answer.code) == (503, "endpoint_waking")
    assert int(answer.headers["Retry-After"]) > 0
    assert reason in str(answer.body)
    assert gateway.metrics.held == 0


async def test_with_a_scheduler_that_never_hears_a_request_is_given_up_all_the_same(
    gateway: Gateway,
) -> None:
    gateway.scheduler.go_on.clear()
    gateway.route(status="idle", wake_timeout=0.05)

    answer = await gateway.ask()

    assert (answer.status, answer.code) == (503, "endpoint_waking")
    assert "Retry-After" in answer.headers


async def test_without_any_wake_timeout_the_endpoint_is_woken_and_nobody_is_held(
    gateway: Gateway,
) -> None:
    gateway.scheduler.go_on.clear()
    gateway.route(status="idle", wake_timeout=0)

    answers = [await gateway.ask() for _ in range(3)]

    assert [(one.status, one.code) for one in answers] == [(503, "endpoint_waking")] * 3
    assert all("Retry-After" in one.headers for one in answers)
    assert gateway.scheduler.calls == [(f"ep_{KEY}", "es_one")]  # and it is still on its way


async def test_an_endpoint_that_keeps_replicas_is_not_waited_for(gateway: Gateway) -> None:
    gateway.route(status="provisioning", wake_timeout=None, ever_ready=True)
    assert (await gateway.ask()).code == "endpoint_recovering"
    gateway.route(status="provisioning", wake_timeout=None)
    assert (await gateway.ask()).code == "endpoint_not_ready"


async def test_health_says_idle_and_wakes_nothing(gateway: Gateway) -> None:
    gateway.route(status="idle")
    for path in ("/health", "/ping"):
        assert await gateway.get(path) == (503, {"status": "idle"})
    gateway.route(status="provisioning")
    assert await gateway.get("/health") == (503, {"status": "not ready"})
    assert gateway.scheduler.calls == []


async def test_an_endpoint_that_a_request_would_wake_is_a_model_that_can_be_used(
    gateway: Gateway,
) -> None:
    gateway.route(status="idle")
    status, listed = await gateway.get("/v1/models")
    assert (status, [item["id"] for item in listed["data"]]) == (200, [KEY])  # type: ignore[attr-defined]  # a list
    assert (await gateway.get(f"/v1/models/{KEY}"))[0] == 200
    assert gateway.scheduler.calls == []


async def test_a_request_that_met_the_last_replica_leaving_waits_for_the_next_one(
    gateway: Gateway, replicas: list[FakeReplica]
) -> None:
    last, new = replicas
    last.mode = "draining"
    gateway.route(last)
    (asking,) = await gateway.hold()  # the route is a moment behind
    assert gateway.scheduler.calls == []
    gateway.route(status="idle")
    await eventually(lambda: gateway.scheduler.calls)

    gateway.route(new)

    answer = await asking
    assert (answer.status, answer.body["from"]) == (200, new.port)
    assert last.seen["draining"] == 1


async def test_a_new_replica_beside_one_that_leaves_is_enough(
    gateway: Gateway, replicas: list[FakeReplica]
) -> None:
    last, new = replicas
    last.mode = "draining"
    gateway.route(last)
    (asking,) = await gateway.hold()

    gateway.route(last, new)

    assert (await asking).body["from"] == new.port
    assert last.seen["draining"] == 1


async def test_replicas_that_are_there_and_full_or_out_of_reach_are_not_waited_for(
    gateway: Gateway, replicas: list[FakeReplica]
) -> None:
    gateway.route(*replicas)
    replicas[0].mode, replicas[1].mode = "draining", "full"
    assert (await gateway.ask()).status == 503
    gateway.route(replicas[0])
    replicas[0].mode = "drop"
    answer = await gateway.ask()
    assert (answer.status, answer.code) == (503, "endpoint_recovering")
    assert gateway.scheduler.calls == []


async def test_a_request_that_was_let_through_is_passed_on_from_a_replica_that_fails(
    gateway: Gateway, replicas: list[FakeReplica]
) -> None:
    replicas[0].mode = "drop"
    gateway.route(status="idle")
    asking = await gateway.hold(4)

    gateway.route(*replicas)

    answers = await asyncio.gather(*asking)
    assert [one.body["from"] for one in answers] == [replicas[1].port] * 4
