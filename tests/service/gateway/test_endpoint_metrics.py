"""GET /v0/dedicated_endpoints/{endpoint_id}/metrics, with replicas that do as they like."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import pytest
from aiohttp import web
from prometheus_client.parser import text_string_to_metric_families
from tests.metrics import sample
from tests.service.gateway import rest

from engineshed.api.scheduler.v1.route_pb2 import Route, RouteReplica
from engineshed.gateway.controlplane import endpoint_metrics
from engineshed.gateway.dataplane.fronts import Fronts

METRICS = f"{rest.ONE}/metrics"
KEY = "bot-x7f3q2"
SECRET = "the-secret-of"
PAGE = (
    "# HELP a What.\n# TYPE a gauge\na 1.0\n# TYPE nv_cpu_utilization gauge\nnv_cpu_utilization 1\n"
)

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]
Start = Callable[[str, Answer], Awaitable[RouteReplica]]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Starts replicas that end with the test."""
    runners: list[web.AppRunner] = []

    async def begin(replica_id: str, answer: Answer) -> RouteReplica:
        app = web.Application()
        app.router.add_get("/metrics", answer)
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        runners.append(runner)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        return RouteReplica(replica_id=replica_id, url=url, secret=f"{SECRET}-{replica_id}")

    yield begin
    for runner in runners:
        await runner.cleanup()


@pytest.fixture
async def client(
    scheduler: rest.Scheduler, routes: rest.Routes
) -> AsyncIterator[httpx.AsyncClient]:
    scheduler.endpoint.routing_key, scheduler.endpoint.region = KEY, "local"
    fronts = Fronts()
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(rest.application(scheduler, routes, fronts)),
        base_url="http://gateway",
        headers={"authorization": "Bearer es_mine"},
    ) as client:
        yield client
    fronts.close()


def route(*replicas: RouteReplica, **fields: Any) -> dict[str, Route]:
    given = {"endpoint_id": rest.ENDPOINT, "routing_key": KEY, "region": "local", **fields}
    return {KEY: Route(replicas=replicas, **given)}


async def says(request: web.Request) -> web.Response:
    """A page, for holders of the secret."""
    if not request.headers["authorization"].startswith(f"Bearer {SECRET}-"):
        return web.Response(status=401)
    return web.Response(text=PAGE)


async def hangs(request: web.Request) -> web.Response:
    await asyncio.Event().wait()
    raise AssertionError("nobody sets it")


async def hangs_in_the_middle(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    await response.write(PAGE.encode())
    return await hangs(request)


async def talks_too_much(request: web.Request) -> web.Response:
    return web.Response(text="a 1\n" * endpoint_metrics.MAX_PAGE_BYTES)


async def refuses(request: web.Request) -> web.Response:
    return web.Response(status=503, text=PAGE)


async def says_no_text(request: web.Request) -> web.Response:
    return web.Response(body=b"a 1\n\xff\n")


async def test_the_replicas_of_an_endpoint_are_on_one_page(client, routes, start) -> None:
    replicas = [await start("rep_1", says), await start("rep_2", says)]
    routes.entries = route(*replicas)

    answer = await client.get(METRICS)

    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert sample(answer.text, "engineshed_endpoint_replicas") == 2
    assert sample(answer.text, "engineshed_endpoint_replicas_unheard") == 0
    (family,) = (one for one in text_string_to_metric_families(answer.text) if one.name == "a")
    assert [one.labels for one in family.samples] == [
        {"replica_id": "rep_1"},
        {"replica_id": "rep_2"},
    ]


async def test_nothing_of_the_host_and_no_way_around_the_gateway_shows(
    client, routes, start
) -> None:
    replica = await start("rep_1", says)
    routes.entries = route(replica)

    text = (await client.get(METRICS)).text

    assert sample(text, "a") == 1
    assert "nv_cpu_" not in text, "other organizations' replicas are part of it"
    assert SECRET not in text
    assert "127.0.0.1" not in text


async def test_replicas_are_asked_at_once(client, routes, start) -> None:
    all_asked = asyncio.Barrier(2)

    async def waits_for_the_other(request: web.Request) -> web.Response:
        await all_asked.wait()
        return await says(request)

    replicas = [await start(name, waits_for_the_other) for name in ("rep_1", "rep_2")]
    routes.entries = route(*replicas)

    text = (await client.get(METRICS)).text

    assert sample(text, "engineshed_endpoint_replicas_unheard") == 0


@pytest.mark.parametrize("silent", [hangs, hangs_in_the_middle])
async def test_a_replica_that_hangs_is_not_waited_for(
    client, routes, start, silent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoint_metrics, "PATIENCE_SECONDS", 0.2)
    routes.entries = route(await start("rep_1", silent))

    text = (await client.get(METRICS)).text

    assert sample(text, "engineshed_endpoint_replicas") == 1
    assert sample(text, "engineshed_endpoint_replicas_unheard") == 1
    assert "rep_1" not in text


@pytest.mark.parametrize("wrong", [talks_too_much, refuses, says_no_text])
async def test_a_replica_that_does_not_answer_as_it_should_is_left_out(
    client, routes, start, wrong
) -> None:
    routes.entries = route(await start("rep_1", wrong), await start("rep_2", says))

    text = (await client.get(METRICS)).text

    assert sample(text, "engineshed_endpoint_replicas") == 2
    assert sample(text, "engineshed_endpoint_replicas_unheard") == 1
    assert sample(text, "a", replica_id="rep_2") == 1
    assert "rep_1" not in text


async def test_a_replica_that_is_gone_costs_the_others_nothing(client, routes, start) -> None:
    gone = RouteReplica(replica_id="rep_1", url="http://127.0.0.1:1", secret=SECRET)
    routes.entries = route(gone, await start("rep_2", says))

    text = (await client.get(METRICS)).text

    assert sample(text, "engineshed_endpoint_replicas_unheard") == 1
    assert sample(text, "a", replica_id="rep_2") == 1


@pytest.mark.parametrize("entries", [{}, route(), route(endpoint_id="ep_another")])
async def test_an_endpoint_without_replicas_has_nothing_but_their_number(
    client, routes, entries
) -> None:
    routes.entries = entries

    answer = await client.get(METRICS)

    assert answer.status_code == 200
    families = [family.name for family in text_string_to_metric_families(answer.text)]
    assert families == ["engineshed_endpoint_replicas", "engineshed_endpoint_replicas_unheard"]
    assert sample(answer.text, "engineshed_endpoint_replicas") == 0


async def test_replicas_of_another_region_are_asked_there(client, routes, scheduler, start) -> None:
    scheduler.endpoint.region = "far"
    replica = await start("rep_1", says)
    routes.entries = route(replica, region="far", base_url="https://far.example")

    problem = await rest.refused(await client.get(METRICS), 404)

    assert problem["reason"] == "WRONG_REGION"
    assert "https://far.example" in problem["detail"]


async def test_the_document_says_that_it_is_text(client) -> None:
    document = (await client.get("/openapi.json")).json()
    operation = document["paths"][f"{rest.ENDPOINTS}/{{endpoint_id}}/metrics"]["get"]
    assert list(operation["responses"]["200"]["content"]) == ["text/plain"]
