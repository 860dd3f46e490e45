"""Requests to endpoints that load may leave without any replica.

While there is none they are held, and the scheduler is asked to wake the endpoint. What lets them
go on is the route with a replica in it, whoever it was that woke the endpoint.
"""

import asyncio
from collections import deque
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final

from engineshed.api.scheduler.v1.route_pb2 import Route
from engineshed.auth import hash_token
from engineshed.gateway.dataplane.admission import Admission, secret_of
from engineshed.gateway.dataplane.errors import IDLE, OpenAIError, not_found, not_routable, waking
from engineshed.gateway.dataplane.exchange import Exchange
from engineshed.gateway.dataplane.forward import Forwarder
from engineshed.gateway.metrics import GatewayMetrics
from engineshed.gateway.news import News
from engineshed.gateway.wake import Wake

# How long until the scheduler is asked again, as long as requests wait for an idle endpoint.
AGAIN_SECONDS: Final = 1.0

# An endpoint will have a replica by itself in these, and when it is woken.
_HOPEFUL: Final = (IDLE, "queued", "provisioning", "running")


@dataclass(frozen=True, slots=True)
class Limits:
    """How much is held at once; what comes on top is refused."""

    requests: int = 1000
    requests_of_endpoint: int = 100
    body_bytes: int = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True, eq=False)
class _Caller:
    """In whose name an endpoint is woken; two are never equal, as callers choose request ids."""

    secret: str
    request_id: str


class Waking:
    """Holds requests until there is a replica for them."""

    def __init__(
        self,
        routes: Mapping[str, Route],
        admission: Admission,
        forwarder: Forwarder,
        wake: Wake,
        news: News,
        metrics: GatewayMetrics,
        limits: Limits | None = None,
    ) -> None:
        """Hold requests to `routes`; `news` tells of their changes, and of those of tokens."""
        self._routes = routes
        self._admission = admission
        self._forwarder = forwarder
        self._wake = wake
        self._news = news
        self._metrics = metrics
        self._limits = limits or Limits()
        self._held: dict[str, deque[_Caller]] = {}
        self._held_bytes = 0
        self._wakers: dict[str, asyncio.Task[None]] = {}
        self._ending = False

    async def run(self) -> None:
        """Hold requests until cancelled; then answer those that are held, and hold no more."""
        try:
            await asyncio.Event().wait()
        finally:
            self._ending = True
            for key in self._held:
                self._news.tell(key)

    async def forward(self, route: Route, exchange: Exchange, body: bytes) -> int:
        """Send the request to a replica as soon as there is one; return the status.

        Raises:
            OpenAIError: there was none in time, or it may not be waited for any more; nothing has
                been sent to the caller.
        """
        leaving: set[str] = set()
        waited = 0.0

        def latest() -> Route:
            return self._routes.get(route.routing_key, route)

        while True:
            if not _has_other(latest(), leaving):
                waited += await self._hold(route, waited, exchange, body, leaving)
            try:
                return await self._forwarder.forward(latest, exchange, body, leaving)
            except OpenAIError:
                if _has_other(latest(), leaving):
                    raise
                # Its last replica is leaving, and the route says so already or is about to.

    async def _hold(
        self,
        route: Route,
        waited: float,
        exchange: Exchange,
        body: bytes,
        leaving: Collection[str],
    ) -> float:
        """Return once a replica that is not `leaving` can be asked, and how many seconds it took.

        It has `waited` for so many before.

        Raises:
            OpenAIError: see `forward`.
        """
        key, loop = route.routing_key, asyncio.get_running_loop()
        caller = _Caller(secret_of(exchange), exchange.request_id)
        if self._is_ready(key, leaving, caller):
            return 0.0
        patience = route.wake_timeout.ToTimedelta().total_seconds() - waited
        began = loop.time()
        exchange.span.event("held")
        try:
            with (
                self._place(route, caller, len(body)),
                self._news.listening(key, hash_token(caller.secret)) as news,
            ):
                async with asyncio.timeout(patience):
                    while not self._is_ready(key, leaving, caller):
                        await news.wait()
                        news.clear()
                        await self._admission.admit(exchange)  # its token may be revoked by now
        except TimeoutError:
            raise waking(self._routes.get(key, route)) from None
        return loop.time() - began

    def _is_ready(self, key: str, leaving: Collection[str], caller: _Caller) -> bool:
        """Tell whether there is a replica to ask; an idle endpoint is being woken from now on.

        Raises:
            OpenAIError: there will be none.
        """
        route = self._routes.get(key)
        if route is None:
            raise not_found(key)
        if _has_other(route, leaving):
            return True
        if route.status not in _HOPEFUL:
            raise not_routable(route)
        if self._ending:
            raise waking(route, "this gateway is ending")
        if route.status == IDLE and key not in self._wakers:
            self._wakers[key] = asyncio.create_task(self._until_awake(route, caller))
        return False

    @contextmanager
    def _place(self, route: Route, caller: _Caller, size: int) -> Iterator[None]:
        """Count a request as held for the time of the block.

        Raises:
            OpenAIError: there are too many.
        """
        key = route.routing_key
        if not self._has_room(key, size):
            raise waking(self._routes.get(key, route), "too many requests wait already")
        held = self._held.setdefault(key, deque())
        held.append(caller)
        self._held_bytes += size
        self._metrics.held += 1
        try:
            yield
        finally:
            self._metrics.held -= 1
            self._held_bytes -= size
            held.remove(caller)
            if not held:
                del self._held[key]

    def _has_room(self, key: str, size: int) -> bool:
        return (
            len(self._held.get(key, ())) < self._limits.requests_of_endpoint
            and self._metrics.held < self._limits.requests
            and self._held_bytes + size <= self._limits.body_bytes
        )

    async def _until_awake(self, route: Route, caller: _Caller) -> None:
        """Have an endpoint woken; try again as long as it is idle and requests wait for it."""
        key = route.routing_key
        try:
            with self._news.listening(key) as news:
                while True:
                    woken = await self._wake(route.endpoint_id, caller.secret, caller.request_id)
                    self._metrics.wakes["woken" if woken else "failed"] += 1
                    with suppress(TimeoutError):
                        async with asyncio.timeout(AGAIN_SECONDS):
                            while self._is_idle(key):
                                await news.wait()
                                news.clear()
                    held = self._held.get(key)
                    if not held or not self._is_idle(key):
                        return
                    held.rotate()  # another one's token may open what this one's does not
                    caller = held[0]
        finally:
            del self._wakers[key]

    def _is_idle(self, key: str) -> bool:
        route = self._routes.get(key)
        return route is not None and route.status == IDLE


def is_woken_by_requests(route: Route) -> bool:
    """Tell whether requests are held while there is no replica, or would be."""
    return route.HasField("wake_timeout") and route.status in _HOPEFUL


def _has_other(route: Route, leaving: Collection[str]) -> bool:
    return any(replica.replica_id not in leaving for replica in route.replicas)
