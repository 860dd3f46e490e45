"""Requests to endpoints without replicas: held, woken for, let through, given up."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import aiohttp
import pytest
import uvicorn
from google.protobuf.duration_pb2 import Duration
from tests.metrics import sample
from tests.service.gateway.fake_replica import SECRET, FakeReplica
from tests.service.gateway.planes import data_plane

from engineshed.api.scheduler.v1.route_pb2 import Route
from engineshed.auth import Principal, UnauthenticatedError, hash_token
from engineshed.gateway.dataplane import waking
from engineshed.gateway.dataplane.balancer import Balancer
from engineshed.gateway.dataplane.forward import Forwarder
from engineshed.gateway.dataplane.fronts import Fronts
from engineshed.gateway.dataplane.waking import Limits
from engineshed.gateway.metrics import GatewayMetrics
from engineshed.gateway.news import News

KEY = "bot-a1b2c3"
OTHER = "bot-d4e5f6"
ORG = "org_1"
TOKENS = ("es_one", "es_two", "es_three")


async def eventually(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


@dataclass
class Scheduler:
    """Takes calls; hears them, or lets them wait until it is told to go on."""

    calls: list[tuple[str, str]] = field(default_factory=list)
    hears: bool = True
    go_on: asyncio.Event = field(default_factory=asyncio.Event)

    async def wake(self, endpoint_id: str, secret: str, request_id: str) -> bool:
        assert request_id
        self.calls.append((endpoint_id, secret))
        await self.go_on.wait()
        return self.hears


@dataclass
class Callers:
    revoked: set[str] = field(default_factory=set)

    async def authenticate(self, secret: str) -> Principal:
        if secret not in TOKENS or secret in self.revoked:
            raise UnauthenticatedError("unknown")
        return Principal("tok_1", ORG, frozenset({"inference"}))


@dataclass
class Gateway:
    """A data plane, with what it is told and whom it asks."""

    url: str
    client: aiohttp.ClientSession
    metrics: GatewayMetrics
    routes: dict[str, Route]
    news: News
    callers: Callers
    scheduler: Scheduler

    def route(self, *replicas: FakeReplica, key: str = KEY, **more: object) -> None:
        """Put a route, by default of an endpoint that waits for long."""
        seconds = more.pop("wake_timeout", 60.0)
        fields = {"status": "running", "region": "local", **more}
        route = Route(routing_key=key, endpoint_id=f"ep_{key}", org_id=ORG, **fields)  # type: ignore[arg-type]  # fields of Route
        if seconds is not None:
            route.wake_timeout.CopyFrom(duration(seconds))
        for replica in replicas:
            url = f"http://127.0.0.1:{replica.port}"
            route.replicas.add(replica_id=f"rep_{replica.port}", url=url, secret=SECRET)
        self.routes[key] = route
        self.news.tell(key)

    def delete(self) -> None:
        del self.routes[KEY]
        self.news.tell(KEY)

    def revoke(self, secret: str) -> None:
        self.callers.revoked.add(secret)
        self.news.tell(hash_token(secret))

    async def ask(self, token: str = "es_one", key: str = KEY, **more: object) -> "Answered":
        body = json.dumps({"model": key, **more})
        headers = {"authorization": f"Bearer {token}"}
        url = f"{self.url}/v1/chat/completions"
        async with self.client.post(url, data=body, headers=headers) as answer:
            return Answered(answer.status, dict(answer.headers), await answer.json())

    async def get(self, path: str) -> tuple[int, dict[str, object]]:
        headers = {"host": f"{KEY}.localhost:8080", "authorization": "Bearer es_one"}
        async with self.client.get(self.url + path, headers=headers) as answer:
            return answer.status, await answer.json(content_type=None)

    async def hold(self, count: int = 1, **asked: str) -> "list[asyncio.Task[Answered]]":
        """Return so many requests more, once they are held."""
        before = self.metrics.held
        asking = [asyncio.create_task(self.ask(**asked)) for _ in range(count)]
        await eventually(lambda: self.metrics.held == before + count)
        return asking


@dataclass
class Answered:
    status: int
    headers: dict[str, str]
    body: dict[str, object]

    @property
    def code(self) -> str:
        error = self.body["error"]
        assert isinstance(error, dict)
        assert set(error) == {"message", "type", "param", "code"}
        return str(error["code"])


Start = Callable[..., Awaitable[Gateway]]


def duration(seconds: object) -> Duration:
    assert isinstance(seconds, int | float)
    found = Duration()
    found.FromTimedelta(timedelta(seconds=seconds))
    return found


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Start gateways that end with the test."""
    ends: list[Callable[[], Awaitable[object]]] = []

    async def start(limits: Limits | None = None) -> Gateway:
        routes: dict[str, Route] = {}
        metrics, news, fronts = GatewayMetrics(), News(), Fronts()
        callers, scheduler = Callers(), Scheduler()
        scheduler.go_on.set()
        plane = data_plane(
            routes,
            callers,
            Forwarder(fronts, Balancer()),
            metrics,
            wake=scheduler.wake,
            news=news,
            limits=limits,
        )
        config = uvicorn.Config(plane, port=0, lifespan="off", log_config=None, access_log=False)
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server._serve())
        await eventually(lambda: server.started)
        port = server.servers[0].sockets[0].getsockname()[1]
        client = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(20))

        async def end() -> None:
            await client.close()
            server.should_exit = True
            await serving
            fronts.close()

        ends.append(end)
        url = f"http://127.0.0.1:{port}"
        return Gateway(url, client, metrics, routes, news, callers, scheduler)

    yield start
    for end in ends:
        await end()


@pytest.fixture
async def gateway(start: Start) -> Gateway:
    return await start()


@pytest.fixture
async def replicas() -> AsyncIterator[list[FakeReplica]]:
    started = [await FakeReplica().start() for _ in range(2)]
    yield started
    for replica in started:
        await replica.stop()


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
    await gateway.hold()

    assert "too many" in str((await gateway.ask(user="x" * 1000)).body)

    await gateway.hold()


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
