"""Two gateways, one in each of two regions, with the same routes: each answers for its own."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import uvicorn
from pydantic import ValidationError
from tests.service.gateway.fake_replica import SECRET, FakeReplica
from tests.service.gateway.planes import data_plane

from engineshed.api.scheduler.v1 import endpoint_service_pb2 as pb
from engineshed.api.scheduler.v1.route_pb2 import Route
from engineshed.auth import Principal
from engineshed.gateway.app import Gateway
from engineshed.gateway.controlplane import control_plane
from engineshed.gateway.dataplane.balancer import Balancer
from engineshed.gateway.dataplane.forward import Forwarder
from engineshed.gateway.dataplane.fronts import Fronts
from engineshed.gateway.metrics import GatewayMetrics
from engineshed.gateway.regions import Regions
from engineshed.gateway.settings import Settings
from engineshed.telemetry import Exposition

ORG = "org_1"
EU, US, FAR = "bot-eu1111", "bot-us2222", "bot-far333"
URLS = {"eu": "https://eu.example", "us": "https://us.example:8443"}
HOSTS = {"eu": "eu.example", "us": "us.example"}
CHAT = "/v1/chat/completions"

Clients = dict[str, httpx.AsyncClient]


class Callers:
    async def authenticate(self, secret: str) -> Principal:
        org_id = ORG if secret == "es_mine" else "org_2"
        return Principal("tok_1", org_id, frozenset({"admin", "inference"}))


class Scheduler:
    async def ListEndpoints(self, request: Any, **_: Any) -> Any:
        endpoints = [
            pb.Endpoint(
                endpoint_id=f"ep_{region}",
                region=region,
                routing_key=key,
                state=pb.Endpoint.STATE_RUNNING,
            )
            for region, key in (("eu", EU), ("us", US), ("far", FAR))
        ]
        for endpoint in endpoints:
            endpoint.create_time.GetCurrentTime()
            endpoint.update_time.GetCurrentTime()
        return SimpleNamespace(endpoints=endpoints, next_page_token="")


@asynccontextmanager
async def gateway(region: str, routes: dict[str, Route]) -> AsyncIterator[httpx.AsyncClient]:
    regions = Regions(region, URLS[region], URLS)
    metrics, fronts = GatewayMetrics(), Fronts()
    services: Any = SimpleNamespace(endpoints=Scheduler(), authenticator=Callers(), routes=None)
    app = Gateway(
        data_plane(routes, Callers(), Forwarder(fronts, Balancer()), metrics, regions),
        control_plane(services, regions, metrics, Exposition("gateway", metrics)),
    )
    config = uvicorn.Config(app, port=0, lifespan="off", log_config=None, access_log=False)
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server._serve())
    async with asyncio.timeout(10):
        while not server.started:
            await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    headers = {"authorization": "Bearer es_mine"}
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", headers=headers) as client:
        yield client
    server.should_exit = True
    await serving
    fronts.close()


@pytest.fixture
async def clients() -> AsyncIterator[Clients]:
    replica = await FakeReplica().start()
    routes = {
        key: Route(
            routing_key=key,
            endpoint_id=f"ep_{region}",
            org_id=ORG,
            region=region,
            status="running",
            ever_ready=True,
        )
        for region, key in (("eu", EU), ("us", US), ("far", FAR))
    }
    for route in routes.values():
        url = f"http://127.0.0.1:{replica.port}"
        route.replicas.add(replica_id="rep_1", url=url, secret=SECRET)
    async with AsyncExitStack() as stack:
        yield {region: await stack.enter_async_context(gateway(region, routes)) for region in URLS}
    await replica.stop()


def misdirected(answer: httpx.Response) -> str:
    """Return what the answer of a wrong region says."""
    assert answer.status_code == 404, answer.text
    error = answer.json()["error"]
    assert error["code"] == "wrong_region"
    return str(error["message"])


async def test_each_gateway_serves_the_endpoints_of_its_region(clients: Clients) -> None:
    for region, key in (("eu", EU), ("us", US)):
        answer = await clients[region].post(CHAT, json={"model": key})
        assert answer.status_code == 200, answer.text


async def test_inference_by_model_is_told_the_right_base_url(clients: Clients) -> None:
    answer = await clients["eu"].post(CHAT, json={"model": US})
    assert misdirected(answer).endswith("runs in the region us; use https://us.example:8443/v1")
    answer = await clients["us"].post(CHAT, json={"model": EU})
    assert misdirected(answer).endswith("runs in the region eu; use https://eu.example/v1")


async def test_inference_by_host_name_is_told_the_right_base_url(clients: Clients) -> None:
    host = {"host": f"{US}.{HOSTS['eu']}"}
    answer = await clients["eu"].post(CHAT, json={"model": US}, headers=host)
    assert "https://us.example:8443/v1" in misdirected(answer)
    answer = await clients["eu"].get("/v1/models", headers=host)
    assert "https://us.example:8443/v1" in misdirected(answer)


@pytest.mark.parametrize("path", ["/ping", "/health"])
async def test_an_endpoint_is_not_healthy_at_a_gateway_that_does_not_serve_it(
    clients: Clients, path: str
) -> None:
    wrong = await clients["us"].get(path, headers={"host": f"{EU}.{HOSTS['us']}"})
    assert f"use https://{EU}.eu.example" in misdirected(wrong)
    right = await clients["eu"].get(path, headers={"host": f"{EU}.{HOSTS['eu']}"})
    assert right.status_code == 200


async def test_where_no_url_is_known_the_region_is_named(clients: Clients) -> None:
    answer = await clients["eu"].post(CHAT, json={"model": FAR})
    assert misdirected(answer).endswith("use the gateway of the region far")


async def test_a_stranger_learns_nothing_of_other_regions_endpoints(clients: Clients) -> None:
    stranger = {"authorization": "Bearer es_stranger"}
    answer = await clients["eu"].post(CHAT, json={"model": US}, headers=stranger)
    assert answer.json()["error"]["code"] == "endpoint_not_found"
    host = {"host": f"{US}.{HOSTS['eu']}"}
    answer = await clients["eu"].get("/v1/models", headers=stranger | host)
    assert answer.json()["data"] == []


async def test_models_are_those_that_can_be_used_here(clients: Clients) -> None:
    for region, key in (("eu", EU), ("us", US)):
        listed = (await clients[region].get("/v1/models")).json()["data"]
        assert [one["id"] for one in listed] == [key]
    assert "https://us.example:8443/v1" in misdirected(await clients["eu"].get(f"/v1/models/{US}"))


async def test_every_gateway_shows_every_endpoint_with_the_url_at_which_it_answers(
    clients: Clients,
) -> None:
    for client in clients.values():
        listed = (await client.get("/v0/dedicated_endpoints")).json()["data"]
        urls = {one["routing_key"]: one["url"] for one in listed}
        assert urls[EU] == f"https://{EU}.eu.example"
        assert urls[US] == f"https://{US}.us.example:8443"


def _settings(monkeypatch: pytest.MonkeyPatch, urls: str) -> Settings:
    common = {
        "STATE_DIR": "/tmp",
        "SERVICE_TOKEN_FILE": "/t",
        "SERVICES_FILE": "/s",
        "REGION": "eu",
        "PUBLIC_HOST": "here.example",
        "PUBLIC_SCHEME": "https",
        "REGION_URLS": urls,
    }
    for name, value in common.items():
        monkeypatch.setenv(f"ENGINESHED_{name}", value)
    return Settings()


def test_the_urls_come_from_a_setting_but_for_our_own(monkeypatch: pytest.MonkeyPatch) -> None:
    urls = "eu=https://eu.example, us=https://us.example:8443/"
    regions = _settings(monkeypatch, urls).regions
    assert regions.endpoint_url("eu", EU) == f"https://{EU}.here.example"
    assert regions.endpoint_url("us", US) == f"https://{US}.us.example:8443"
    assert _settings(monkeypatch, "").region_urls == {}


@pytest.mark.parametrize(
    "urls", ["us", "us=us.example", "us=https://us.example/path", "US=https://a", "=https://a"]
)
def test_what_is_no_region_s_url_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, urls: str
) -> None:
    with pytest.raises(ValidationError, match="is not REGION=URL"):
        _settings(monkeypatch, urls)


def test_a_region_has_one_url(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValidationError, match="us is there twice"):
        _settings(monkeypatch, "us=https://a.example,us=https://b.example")
