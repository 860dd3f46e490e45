"""What callers do all along: commands and questions by way of any gateway, tokens, requests."""

import asyncio
import itertools
import json
import math
import random
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final

import aiohttp
from tests.chaos.promise import Excuse, Problem, Promise

Json = dict[str, Any]

ENDPOINTS: Final = "/v0/dedicated_endpoints"
NODES: Final = "/v0/nodes"
TOKENS: Final = "/v0/tokens"

ACKNOWLEDGED: Final = "acknowledged"

_AGAIN_AFTER_S: Final = 0.3
_AFTER_FAILURE_S: Final = 0.5
_COMMAND_S: Final = 10.0
_ANSWER_S: Final = 60.0  # longer than any pause
_TRY_AGAIN: Final = (HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE)
_REFUSALS: Final = (HTTPStatus.NOT_FOUND, HTTPStatus.SERVICE_UNAVAILABLE)


class RefusedError(Exception):
    """The platform has answered that it will not do it."""

    def __init__(self, what: str, status: int, problem: Json) -> None:
        super().__init__(f"{what}: {status} {problem.get('reason')}: {problem.get('detail')}")
        self.problem = problem

    @property
    def reason(self) -> str:
        """Why, e.g. WRONG_STATE."""
        return str(self.problem.get("reason"))


class Api:
    """The REST API, by way of any gateway that answers."""

    def __init__(self, session: aiohttp.ClientSession, gateways: Mapping[str, str]) -> None:
        self._session = session
        self._next = itertools.cycle(gateways.values())
        self.operations: Counter[tuple[str, str]] = Counter()  # what, and how it ended
        self.surprises: list[str] = []  # answers that no fault explains

    async def get(self, path: str) -> Json:
        """Return what is there; ask until somebody answers."""
        return await self._call("GET", path, None, "")

    async def command(
        self, what: str, method: str, path: str, key: str, body: Json | None = None
    ) -> Json:
        """Repeat a command under its one key until it is answered; `what` is for the table.

        Raises:
            RefusedError: the answer is no.

        """
        try:
            answer = await self._call(method, path, body, key)
        except RefusedError as error:
            self.operations[what, error.reason] += 1
            raise
        self.operations[what, ACKNOWLEDGED] += 1
        return answer

    async def _call(self, method: str, path: str, body: Json | None, key: str) -> Json:
        while True:
            url = next(self._next) + path
            try:
                async with self._session.request(
                    method,
                    url,
                    json=body,
                    headers={"idempotency-key": key} if key else None,
                    timeout=aiohttp.ClientTimeout(total=_COMMAND_S),
                ) as response:
                    status, answer = response.status, await response.json()
            except (aiohttp.ClientError, TimeoutError, ValueError):
                pass  # it may have been done or not: only asking again tells
            else:
                if response.ok:
                    return dict(answer)
                if status == HTTPStatus.INTERNAL_SERVER_ERROR:
                    self.surprises.append(f"{method} {path}: {status} {answer}")
                elif status not in _TRY_AGAIN:
                    raise RefusedError(f"{method} {path}", status, answer)
            await asyncio.sleep(_AGAIN_AFTER_S)


@dataclass(slots=True)
class Watcher:
    """Looks again and again which replicas of some endpoints are ready."""

    api: Api
    ready: dict[str, frozenset[str]]  # by endpoint

    async def run(self) -> None:
        """Look for ever."""
        while True:
            for endpoint_id in list(self.ready):
                self.ready[endpoint_id] = await ready_replicas(self.api, endpoint_id)
            await asyncio.sleep(_AGAIN_AFTER_S)


@dataclass(slots=True)
class Tokens:
    """Makes tokens and revokes some of them."""

    api: Api
    pause_s: tuple[float, float]
    chance: random.Random
    good: dict[str, str] = field(default_factory=dict)  # secrets by id
    revoked: dict[str, str] = field(default_factory=dict)

    async def run(self, over: asyncio.Event) -> None:
        """Go on until `over` is set and the last command is acknowledged."""
        for number in itertools.count():
            if over.is_set():
                return
            if self.good and self.chance.random() < 0.4:
                token_id = self.chance.choice(list(self.good))
                await self.api.command("revoke a token", "DELETE", f"{TOKENS}/{token_id}", "")
                self.revoked[token_id] = self.good.pop(token_id)
            else:
                await self._make(f"token {number}")
            await until(over, self.chance.uniform(*self.pause_s))

    async def _make(self, key: str) -> None:
        body = {"name": key, "scopes": ["inference"]}
        try:
            answer = await self.api.command("make a token", "POST", TOKENS, key, body)
        except RefusedError as error:
            if error.reason != "TOKEN_ALREADY_CREATED":
                raise
            return  # it was made when the answer got lost, and with it the secret
        self.good[answer["token_id"]] = answer["token"]


@dataclass(slots=True)
class Asker:
    """Sends one request after the other to one endpoint by way of one gateway."""

    session: aiohttp.ClientSession
    promise: Promise
    gateway: str
    url: str
    endpoint: str
    model: str
    pause_s: float
    api: Api
    tell: Callable[[str], None]
    burst_s: float = math.inf
    calm_s: float = 0.0  # after each burst

    async def run(self, over: asyncio.Event) -> None:
        """Go on until `over` is set."""
        way = self.gateway, self.endpoint
        calm_at = time.monotonic() + self.burst_s
        for stream in itertools.cycle((False, True)):
            if time.monotonic() > calm_at:
                await until(over, self.calm_s)
                calm_at = time.monotonic() + self.burst_s
            if over.is_set():
                return
            excuses, sent_at = self.promise.begin(way), time.monotonic()
            problem = await self.ask(stream=stream)
            if problem is None:
                self.promise.success(way, sent_at)
            elif self.promise.failure(way, excuses, problem, await self._ready(excuses)):
                self.tell(f"PROMISE BROKEN by {self.gateway} for {self.model}: {problem.text}")
            await until(over, _AFTER_FAILURE_S if problem else self.pause_s)

    async def _ready(self, excuses: Sequence[Excuse]) -> Collection[str]:
        """Return the replicas that are ready, if any excuse depends on them."""
        if not any(excuse.known for excuse in excuses):
            return ()
        return await ready_replicas(self.api, self.endpoint)

    async def ask(self, *, stream: bool) -> Problem | None:
        """Return what was wrong with the answer; None: nothing."""
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": "What is an engine shed?"}],
            "max_tokens": 4,
            "stream": stream,
        }
        begun = time.monotonic()
        refused = False
        try:
            async with self.session.post(
                f"{self.url}/v1/chat/completions",
                json=body,
                timeout=aiohttp.ClientTimeout(total=_ANSWER_S),
            ) as response:
                text = await response.text()
                if response.ok and _is_whole(text, stream=stream):
                    return None
                refused = response.status in _REFUSALS
                what = f"{response.status} {text[-200:]}"
        except (aiohttp.ClientError, TimeoutError) as error:
            what = repr(error)
        seconds = time.monotonic() - begun
        return Problem(f"{self.gateway}: {what} after {seconds:.1f} s", refused=refused)


def _is_whole(text: str, *, stream: bool) -> bool:
    if stream:
        return text.endswith("data: [DONE]\n\n")
    try:
        return bool(json.loads(text)["choices"])
    except (ValueError, KeyError):
        return False


async def ready_replicas(api: Api, endpoint_id: str) -> frozenset[str]:
    """Return which replicas are ready.

    The explanation says so: the answer with the endpoint alone waits for its gateway to know them.
    """
    there = await api.get(f"{ENDPOINTS}/{endpoint_id}/explanation")
    return frozenset(one["replica_id"] for one in there["replicas"] if one["status"] == "ready")


async def until(over: asyncio.Event, seconds: float) -> None:
    """Sleep, but no longer than until `over` is set."""
    try:
        async with asyncio.timeout(seconds):
            await over.wait()
    except TimeoutError:
        return
