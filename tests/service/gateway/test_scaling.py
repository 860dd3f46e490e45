"""How many replicas endpoints have, over REST."""

import pytest
from tests.service.gateway.rest import ENDPOINTS, NEW, ONE

from engineshed.api.scheduler.v1 import (
    endpoint_service_pb2,
    scheduling_service_pb2,
)
from engineshed.api.scheduler.v1.route_pb2 import Route


async def test_an_endpoint_may_be_created_without_replicas(client, scheduler) -> None:
    scaling = {"min_replicas": 0, "idle_after": 300, "wake_timeout": 0.5}
    assert (await client.post(ENDPOINTS, json={**NEW, "scaling": scaling})).status_code == 201
    (request,) = scheduler.requests
    wanted = endpoint_service_pb2.Scaling(min_replicas=0, max_replicas=1)
    wanted.idle_after.FromSeconds(300)
    wanted.wake_timeout.FromMilliseconds(500)
    assert request.scaling == wanted


async def test_an_update_changes_single_times_of_idle_endpoints_and_null_resets_them(
    client, scheduler
) -> None:
    body = {"scaling": {"idle_after": 90, "wake_timeout": None}}
    assert (await client.patch(ONE, json=body)).status_code == 200
    (request,) = scheduler.requests
    assert list(request.update_mask.paths) == ["scaling.idle_after", "scaling.wake_timeout"]
    assert request.endpoint.scaling.idle_after.seconds == 90
    assert not request.endpoint.scaling.HasField("wake_timeout")


async def test_an_endpoint_shows_when_it_is_idle_and_how_many_replicas_are_wanted(
    client, scheduler
) -> None:
    scheduler.endpoint.scaling.max_replicas = 2
    scheduler.endpoint.scaling.idle_after.FromMilliseconds(1500)
    scheduler.endpoint.scaling.wake_timeout.FromSeconds(60)
    scheduler.endpoint.wanted_replicas = 2
    answer = await client.get(ONE)
    assert answer.json()["wanted_replicas"] == 2
    assert answer.json()["scaling"] == {
        "min_replicas": 0,
        "max_replicas": 2,
        "idle_after": 1.5,
        "wake_timeout": 60,
    }
    assert '"wake_timeout":60}' in answer.text


@pytest.mark.parametrize("method", ["get", "patch", "post"])
async def test_who_reads_that_an_endpoint_is_idle_may_ask_it_at_once(
    client, scheduler, routes, method
) -> None:
    scheduler.endpoint.state = endpoint_service_pb2.Endpoint.STATE_IDLE
    scheduler.endpoint.routing_key = "bot-a1b2c3"
    scheduler.endpoint.region = "local"
    body = {} if method == "get" else {"json": {"name": "x"}}
    url = f"{ONE}/restart" if method == "post" else ONE
    assert (await client.request(method, url, **body)).json()["status"] == "idle"
    ((key, usable),) = routes.awaited
    assert key == "bot-a1b2c3"
    woken = Route(status="idle")
    assert not usable(woken)  # an older one, of when it kept its replicas
    woken.wake_timeout.FromSeconds(0)
    assert usable(woken)
    woken.status = "stopped"
    assert not usable(woken)


async def test_an_explanation_says_how_load_scales(client, scheduler) -> None:
    explained = scheduling_service_pb2.ExplainEndpointResponse(endpoint=scheduler.endpoint)
    scheduler.explained = explained
    assert (await client.get(f"{ONE}/explanation")).json()["scaling"] is None

    scaling = explained.scaling
    scaling.target, scaling.reason = 8, "the load is as it should be"
    scaling.load.in_flight, scaling.load.high = 12.5, 20
    scaling.last.replicas, scaling.last.reason = 1, "12 requests in flight, 8 wanted"
    scaling.last_time.FromJsonString("2026-01-01T00:00:00Z")
    shown = (await client.get(f"{ONE}/explanation")).json()["scaling"]
    assert (shown["target"], shown["reason"]) == (8, "the load is as it should be")
    load = {"in_flight": 12.5, "low": 0, "high": 20, "idle_seconds": None}
    assert shown["load"] == load
    assert shown["last"]["decided_at"] == "2026-01-01T00:00:00Z"
    assert (shown["last"]["replicas_before"], shown["last"]["load"]["high"]) == (1, None)
