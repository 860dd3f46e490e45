"""The data plane over real HTTP: routing, retries, broken answers, clients that leave."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass

import aiohttp
import pytest
import uvicorn
from structlog.testing import capture_logs
from tests.metrics import sample
from tests.service.gateway.fake_replica import SECRET, FakeReplica
from tests.service.gateway.planes import data_plane

from engineshed.api.scheduler.v1.route_pb2 import Route
from engineshed.auth import Principal, UnauthenticatedError
from engineshed.gateway.dataplane.balancer import Balancer
from engineshed.gateway.dataplane.forward import Forwarder
from engineshed.gateway.dataplane.fronts import Fronts
from engineshed.gateway.dataplane.http import MAX_BODY_BYTES
from engineshed.gateway.metrics import GatewayMetrics

KEY = "bot-a1b2c3"
ORG = "org_1"


class Callers:
    async def authenticate(self, secret: str) -> Principal:
        match secret:
            case "es_mine":
                return Principal("tok_1", ORG, frozenset({"inference"}))
            case "es_reader":
                return Principal("tok_2", ORG, frozenset({"endpoints:read"}))
            case "es_stranger":
                return Principal("tok_3", "org_2", frozenset({"inference"}))
        raise UnauthenticatedError("unknown")


@dataclass
class Served:
    url: str
    routes: dict[str, Route]
    balancer: Balancer
    client: aiohttp.ClientSession
    metrics: GatewayMetrics

    def route(self, *replicas: FakeReplica, **more: object) -> Route:
        fields = {"status": "running", "ever_ready": True, "region": "local", **more}
        route = Route(routing_key=KEY, endpoint_id="ep_1", org_id=ORG, **fields)  # type: ignore[arg-type]  # fields of Route
        for replica in replicas:
            route.replicas.add(
                replica_id=f"rep_{replica.port}",
                url=f"http://127.0.0.1:{replica.port}",
                secret=SECRET,
            )
        self.routes[KEY] = route
        return route

    def post(
        self, body: object = None, *, token: str = "es_mine", path: str = "/v1/chat/completions"
    ):
        data = json.dumps({"model": KEY} if body is None else body)
        return self.client.post(
            self.url + path, data=data, headers={"authorization": f"Bearer {token}"}
        )

    async def refused(self, status: int, **arguments: object) -> str:
        async with self.post(**arguments) as answer:  # type: ignore[arg-type]  # those of post
            assert answer.status == status
            error = (await answer.json())["error"]
        assert set(error) == {"message", "type", "param", "code"}
        return str(error["code"])


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    routes: dict[str, Route] = {}
    balancer = Balancer()
    fronts = Fronts()
    metrics = GatewayMetrics()
    forwarder = Forwarder(fronts, balancer)
    plane = data_plane(routes, Callers(), forwarder, metrics)
    server = uvicorn.Server(
        uvicorn.Config(plane, port=0, lifespan="off", log_config=None, access_log=False)
    )
    serving = asyncio.create_task(server._serve())
    async with asyncio.timeout(10):
        while not server.started:
            await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    client = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(10))
    yield Served(f"http://127.0.0.1:{port}", routes, balancer, client, metrics)
    await client.close()
    server.should_exit = True
    await serving
    fronts.close()


async def test_a_request_reaches_the_replica_unchanged_with_its_secret_and_not_the_callers(
    served, replicas
) -> None:
    served.route(replicas[0])
    body = {"model": KEY, "messages": [{"role": "user", "content": "héllo"}], "x": 1}

    async with served.post(body) as answer:
        assert (await answer.json())["from"] == replicas[0].port
        assert answer.headers["x-request-id"]

    assert json.loads(replicas[0].bodies[0]) == body
    headers = {name.lower(): value for name, value in replicas[0].headers[0].items()}
    assert headers["authorization"] == f"Bearer {SECRET}"
    assert headers["x-request-id"] == answer.headers["x-request-id"]


async def test_a_replicas_own_refusal_is_passed_on(served, replicas) -> None:
    served.route(replicas[0])
    replicas[0].mode = "invalid"
    assert await served.refused(400) == "invalid_value"


@pytest.mark.parametrize("mode", ["full", "drop"])
async def test_a_replica_that_does_not_begin_is_passed_over(served, replicas, mode) -> None:
    served.route(*replicas)
    replicas[0].mode = mode

    for _ in range(6):
        async with served.post() as answer:
            assert (await answer.json())["from"] == replicas[1].port

    assert served.balancer.in_flight(f"rep_{replicas[0].port}") == 0


async def test_a_replica_that_became_ready_meanwhile_is_tried_too(served, replicas) -> None:
    old, new = replicas
    served.route(old)
    old.mode = "full later"
    asking = asyncio.ensure_future(served.post())
    await old.began.wait()
    served.route(new)

    old.go_on.set()

    async with await asking as answer:
        assert (await answer.json())["from"] == new.port


async def test_a_dead_replica_is_passed_over(served, replicas) -> None:
    served.route(*replicas)
    await replicas[0].runner.cleanup()

    for _ in range(6):
        async with served.post() as answer:
            assert (await answer.json())["from"] == replicas[1].port


async def test_when_all_are_full_the_caller_is_told_to_come_back(served, replicas) -> None:
    served.route(*replicas)
    for replica in replicas:
        replica.mode = "full"

    async with served.post() as answer:
        assert answer.status == 503
        assert answer.headers["retry-after"] == "1"
        assert (await answer.json())["error"]["code"] == "overloaded"
    assert [replica.seen["full"] for replica in replicas] == [1, 1]


async def test_when_all_are_gone_the_endpoint_is_recovering(served, replicas) -> None:
    served.route(replicas[0])
    replicas[0].mode = "drop"
    async with served.post() as answer:
        assert answer.status == 503
        assert "retry-after" in answer.headers
        assert (await answer.json())["error"]["code"] == "endpoint_recovering"


async def test_chunks_arrive_as_they_are_sent(served, replicas) -> None:
    served.route(replicas[0])
    replicas[0].mode = "stream"

    async with served.post() as answer:
        assert await answer.content.readuntil(b"\n\n") == b'data: {"n": 1}\n\n'
        assert served.balancer.in_flight(f"rep_{replicas[0].port}") == 1
        replicas[0].go_on.set()
        assert await answer.content.read() == b'data: {"n": 2}\n\ndata: [DONE]\n\n'

    assert served.balancer.in_flight(f"rep_{replicas[0].port}") == 0


async def test_a_broken_stream_says_so_and_never_ends_cleanly(served, replicas) -> None:
    served.route(replicas[0])
    replicas[0].mode = "break"
    received = b""

    with pytest.raises(aiohttp.ClientPayloadError):  # the end of the chunks is missing
        async with served.post() as answer:
            assert answer.status == 200
            async for chunk in answer.content.iter_any():
                received += chunk

    assert received.startswith(b'data: {"n": 1}\n\n')
    assert b'"error"' in received
    assert b"[DONE]" not in received


@pytest.mark.parametrize("mode", ["stall", "stream"])
async def test_a_client_that_leaves_cancels_its_request_at_the_replica(
    served, replicas, mode
) -> None:
    served.route(replicas[0])
    replicas[0].mode = mode

    asking = asyncio.create_task(_read(served))
    async with asyncio.timeout(10):
        await replicas[0].began.wait()
        asking.cancel()
        await replicas[0].left.wait()
        while served.balancer.in_flight(f"rep_{replicas[0].port}"):
            await asyncio.sleep(0.01)


async def _read(served: Served) -> None:
    async with served.post() as answer:
        await answer.read()


async def test_the_less_busy_replica_gets_the_request(served, replicas) -> None:
    served.route(*replicas)
    for replica in replicas:
        replica.mode = "stall"
    asking = []
    for count in range(1, 7):
        asking.append(asyncio.create_task(_read(served)))
        async with asyncio.timeout(10):
            while sum(replica.seen["stall"] for replica in replicas) < count:
                await asyncio.sleep(0.01)

    assert [replica.seen["stall"] for replica in replicas] == [3, 3]
    for task in asking:
        task.cancel()
    await asyncio.gather(*asking, return_exceptions=True)


@pytest.mark.parametrize(
    ("fields", "status", "code"),
    [
        ({"status": "stopped"}, 404, "endpoint_stopped"),
        ({"status": "stopping"}, 404, "endpoint_stopped"),
        ({"status": "failed", "status_reason": "too big"}, 404, "endpoint_failed"),
        ({"status": "provisioning", "ever_ready": False}, 404, "endpoint_not_ready"),
        ({"status": "queued", "ever_ready": False}, 404, "endpoint_not_ready"),
        ({"status": "provisioning"}, 503, "endpoint_recovering"),
        ({"region": "mars", "base_url": "https://mars.example"}, 404, "wrong_region"),
    ],
)
async def test_without_a_replica_the_caller_learns_whether_to_wait(
    served, fields, status, code
) -> None:
    served.route(**fields)
    assert await served.refused(status) == code


async def test_a_strangers_endpoint_looks_exactly_like_one_that_does_not_exist(
    served, replicas
) -> None:
    served.route(replicas[0])
    async with served.post(token="es_stranger") as answer:
        theirs = await answer.json()
    del served.routes[KEY]
    async with served.post(token="es_stranger") as answer:
        assert answer.status == 404
        assert await answer.json() == theirs
    assert theirs["error"]["code"] == "endpoint_not_found"


async def test_tokens_are_checked_before_anything_is_forwarded(served, replicas) -> None:
    served.route(replicas[0])
    assert await served.refused(401, token="es_wrong") == "invalid_api_key"
    assert await served.refused(401, token="") == "invalid_api_key"
    assert await served.refused(403, token="es_reader") == "insufficient_scope"
    assert not replicas[0].seen


async def test_bodies_without_a_model_are_refused(served) -> None:
    assert await served.refused(400, body={"messages": []}) == "missing_model"
    assert await served.refused(400, body=[]) == "missing_model"
    assert await served.refused(400, body={"model": 5}) == "missing_model"
    assert await served.refused(404, path="/v1/nothing") == "unknown_url"


async def test_another_method_is_told_the_right_one(served) -> None:
    async with served.client.get(served.url + "/v1/completions") as answer:
        assert answer.status == 405
        assert answer.headers["allow"] == "POST"
        assert (await answer.json())["error"]["code"] == "method_not_allowed"


async def test_a_body_larger_than_any_replica_takes_is_refused(served, replicas) -> None:
    served.route(replicas[0])
    body = {"model": KEY, "messages": "x" * MAX_BODY_BYTES}
    assert await served.refused(413, body=body) == "body_too_large"
    assert not replicas[0].seen


async def test_a_bug_is_answered_in_openais_shape_too(served, replicas) -> None:
    served.route(replicas[0]).replicas[0].secret = "no\nheader"
    with capture_logs():
        assert await served.refused(500) == "internal_error"


async def test_models_are_those_that_can_be_used(served, replicas) -> None:
    served.route(replicas[0])
    headers = {"authorization": "Bearer es_mine"}
    async with served.client.get(served.url + "/v1/models", headers=headers) as answer:
        assert [item["id"] for item in (await answer.json())["data"]] == [KEY]
    served.route(status="stopped")
    async with served.client.get(served.url + "/v1/models", headers=headers) as answer:
        assert (await answer.json())["data"] == []


async def test_an_endpoint_has_a_host_name_of_its_own(served, replicas) -> None:
    served.route(replicas[0])
    host = {"host": f"{KEY}.localhost:8080"}
    async with served.client.get(served.url + "/ping", headers=host) as answer:
        assert answer.status == 200
    headers = {**host, "authorization": "Bearer es_mine"}
    url = served.url + "/v1/completions"
    async with served.client.post(url, data=b"{}", headers=headers) as answer:
        assert answer.status == 200
    async with served.client.post(url, data=b'{"model": "other"}', headers=headers) as answer:
        assert answer.status == 404
    served.route(status="provisioning")
    async with served.client.get(served.url + "/health", headers=host) as answer:
        assert answer.status == 503
    async with served.client.get(
        served.url + "/ping", headers={"host": "no-aaaaaa.localhost"}
    ) as answer:
        assert answer.status == 404


def requests(served: Served, route: str, status: int) -> float:
    labels = {"http_route": route, "http_response_status_code": str(status)}
    return sample(served.metrics, "http_server_request_duration_seconds_count", **labels)


async def test_requests_are_measured_by_endpoint_and_first_tokens_of_those_that_stream(
    served, replicas
) -> None:
    served.route(replicas[0])
    async with served.post() as answer:
        await answer.read()
    replicas[0].mode = "stream"
    replicas[0].go_on.set()
    async with served.post() as answer:
        await answer.read()

    model = {"gen_ai_request_model": KEY}
    assert sample(served.metrics, "gen_ai_server_request_duration_seconds_count", **model) == 2
    assert sample(served.metrics, "gen_ai_server_time_to_first_token_seconds_count", **model) == 1
    assert sample(served.metrics, "engineshed_gateway_requests_in_flight", **model) == 0
    assert requests(served, "/v1/chat/completions", 200) == 2

    served.metrics.forget(KEY)
    assert KEY not in str(list(served.metrics.collect()))


async def test_requests_are_in_flight_until_their_client_leaves(served, replicas) -> None:
    served.route(replicas[0])
    replicas[0].mode = "stall"
    asking = asyncio.ensure_future(served.post())
    await replicas[0].began.wait()
    in_flight = "engineshed_gateway_requests_in_flight"
    assert sample(served.metrics, in_flight, gen_ai_request_model=KEY) == 1

    asking.cancel()
    await replicas[0].left.wait()

    async with asyncio.timeout(10):
        while sample(served.metrics, in_flight):
            await asyncio.sleep(0.01)
    assert sample(served.metrics, "engineshed_gateway_clients_gone_total") == 1
    assert requests(served, "/v1/chat/completions", 499) == 1


async def test_refusals_are_counted_by_reason_and_made_up_paths_are_one_series(
    served, replicas
) -> None:
    served.route(*replicas)
    replicas[0].mode = replicas[1].mode = "full"
    await served.refused(503)
    await served.refused(401, token="es_wrong")
    await served.refused(404, body={"model": "another"})
    await served.refused(404, path="/v1/made-up")

    def refusals(reason: str) -> float:
        return sample(served.metrics, "engineshed_gateway_refusals_total", reason=reason)

    assert refusals("overloaded") == refusals("invalid_api_key") == 1
    assert refusals("endpoint_not_found") == refusals("unknown_url") == 1
    assert sample(served.metrics, "engineshed_gateway_replicas_passed_over_total") == 2
    assert "made-up" not in str(list(served.metrics.collect()))


async def test_answers_that_break_off_are_counted(served, replicas) -> None:
    served.route(replicas[0])
    replicas[0].mode = "break"
    async with served.post() as answer:
        with contextlib.suppress(aiohttp.ClientError):
            await answer.read()
    assert sample(served.metrics, "engineshed_gateway_answers_broken_total") == 1
