"""A gateway with endpoints that have no replica, and what it is told and whom it asks."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta

import aiohttp
from google.protobuf.duration_pb2 import Duration
from tests.service.gateway.fake_replica import SECRET, FakeReplica

from engineshed.api.scheduler.v1.route_pb2 import Route
from engineshed.auth import Principal, UnauthenticatedError, hash_token
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
