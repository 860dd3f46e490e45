"""One connection to NATS for the whole life of a process.

Every connection is a fresh client: whatever hangs on it (subscriptions, consumers, watches) is
set up anew by `each_connection`. Watches that the client library carries over a broker's restart
deliver late or never, and it gives up for ever on some errors; a fresh start has neither.
"""

import asyncio
import hmac
import random
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar
from urllib.parse import unquote, urlsplit

import structlog
from nats.aio.client import Client
from nats.errors import (
    ConnectionClosedError,
    ConnectionDrainingError,
    NoRespondersError,
    OutboundBufferLimitError,
)
from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.api import PubAck
from nats.js.errors import NoStreamResponseError, ServiceUnavailableError

from engineshed.bus.errors import BusUnavailableError
from engineshed.bus.metrics import BusMetrics
from engineshed.runtime.tls import TlsPeer

# Seconds.
CALL_DEADLINE: Final = 5.0
CONNECT_DEADLINE: Final = 3.0
CLOSE_DEADLINE: Final = 2.0
HEARTBEAT: Final = 5.0  # a stopped broker is noticed after this and CALL_DEADLINE
CANCEL_AGAIN: Final = CLOSE_DEADLINE + 1
RETRY_FIRST: Final = 0.1
RETRY_LONGEST: Final = 2.0
WORK_RETRY: Final = 0.5

T = TypeVar("T")
Work = Callable[[JetStreamContext], Coroutine[object, object, None]]

NO_ANSWER: Final = (
    TimeoutError,
    OSError,
    ConnectionClosedError,
    ConnectionDrainingError,
    NoRespondersError,
    NoStreamResponseError,
    OutboundBufferLimitError,
    ServiceUnavailableError,
)

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Connection:
    """One client, from connected to lost."""

    client: Client
    js: JetStreamContext
    lost: asyncio.Future[None]
    waiting: set[asyncio.Future[PubAck]] = field(default_factory=set)  # what was published


class Bus:
    """NATS as a process sees it: there, or coming back.

    Make one with `await Bus.connect(…)`, end it with `close()`.
    """

    def __init__(
        self,
        url: str,
        *,
        name: str,
        inbox_prefix: str | None,
        replicas: int,
        tls: TlsPeer | None,
    ) -> None:
        parts = [urlsplit(server) for server in url.split(",")]
        if not all(part.hostname and part.scheme for part in parts):
            raise ValueError("a NATS URL looks like nats://user:password@host:port")
        # Given apart from the addresses, so that they stand in no address that is ever logged.
        self._user = unquote(parts[0].username or "") or None
        self._password = unquote(parts[0].password or "") or None
        self._servers = [f"{part.scheme}://{part.netloc.rpartition('@')[2]}" for part in parts]
        self._name = name
        self._replicas = replicas
        self._tls = tls
        self._inbox_prefix = inbox_prefix or (f"_INBOX_{self._user}" if self._user else "_INBOX")
        self._connection: _Connection | None = None
        self._connections = 0
        self._closing = False
        self._up = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self.metrics = BusMetrics(self)

    @classmethod
    async def connect(
        cls,
        url: str,
        *,
        name: str,
        inbox_prefix: str | None = None,
        replicas: int = 1,
        tls: TlsPeer | None = None,
    ) -> "Bus":
        """Return a bus that connects in the background, for ever, and again whenever it is lost.

        Args:
            url: `nats://user:password@host:port`; several, of one cluster, joined by commas. The
                first one's credentials are used for all.
            name: how the connection shows in the broker's monitoring; the service's name.
            inbox_prefix: where replies are sent. By default `_INBOX_<user>`, since the broker lets
                every user subscribe to its own only.
            replicas: how many nodes of a cluster keep each stream and bucket that this bus makes.
            tls: the certificate to present, and who must answer. The broker must let clients begin
                with the handshake (`handshake_first`), so that nothing is ever said in plain text.

        Raises:
            ValueError: `url` is none.

        """
        bus = cls(url, name=name, inbox_prefix=inbox_prefix, replicas=replicas, tls=tls)
        bus._start(bus._keep_connected())
        return bus

    @property
    def connected(self) -> bool:
        """Whether NATS is there now."""
        return self._connection is not None

    @property
    def connections(self) -> int:
        """How many connections there have been: another number, another connection."""
        return self._connections

    @property
    def replicas(self) -> int:
        """How many nodes of a cluster keep each stream and bucket that this bus makes."""
        return self._replicas

    def durable_name(self, name: str) -> str:
        """Return the name of this user's durable consumer `name`, which nobody else can guess."""
        return durable_name(name, self._password)

    async def wait_connected(self) -> None:
        """Return as soon as NATS is there; bound it with `asyncio.timeout`."""
        await self._up.wait()

    def on_connect(self, callback: Callable[[], Coroutine[object, object, None]]) -> None:
        """Call `callback` on every connection, the present one included.

        It is called again while it raises, and cancelled when the connection is lost.
        """
        self._start(self.each_connection(lambda _: callback()))

    async def call(
        self,
        request: Callable[[JetStreamContext], Coroutine[object, object, T]],
        *,
        deadline: float = CALL_DEADLINE,
    ) -> T:
        """Return what `request` answers on the present connection.

        Raises:
            BusUnavailableError: there is no connection, it was lost meanwhile, or no answer came
                within `deadline` seconds. The request may or may not have been carried out.
            nats.js.errors.APIError: the broker refused the request.

        """
        connection = self._required()
        task = asyncio.create_task(request(connection.js))
        await _first_of(task, connection.lost, limit=deadline)
        if task.cancelled():
            what = "the connection was lost" if connection.lost.done() else f"within {deadline} s"
            raise BusUnavailableError(f"no answer from NATS ({what}); try again later")
        try:
            return task.result()
        except NO_ANSWER as error:
            raise BusUnavailableError(f"NATS did not carry out the request: {error!r}") from error

    async def publish(
        self, subject: str, data: bytes, *, stream: str, headers: dict[str, str]
    ) -> None:
        """Return when the stream holds the message, or held one of its `Nats-Msg-Id` already.

        It does what `call` would, with neither a task nor a subscription for each message.

        Raises:
            BusUnavailableError: as `call` does.
            nats.js.errors.APIError: the broker refused the message.

        """
        connection = self._required()
        acknowledged: asyncio.Future[PubAck] | None = None
        try:
            async with asyncio.timeout(CALL_DEADLINE):
                acknowledged = await connection.js.publish_async(
                    subject, data, stream=stream, headers=headers
                )
                connection.waiting.add(acknowledged)
                await acknowledged
        except NO_ANSWER as error:
            raise BusUnavailableError(f"NATS did not take the message: {error!r}") from error
        finally:
            if acknowledged is not None:
                connection.waiting.discard(acknowledged)

    async def each_connection(self, work: Work) -> None:
        """Run `work` on every connection, afresh, until cancelled; it gets JetStream there.

        It is cancelled when the connection is lost. When it raised it runs again after a pause,
        when it returned it runs again on the next connection.
        """
        while True:
            await self._up.wait()
            connection = self._connection
            if connection is None:
                continue
            task = asyncio.create_task(work(connection.js))
            await _first_of(task, connection.lost)
            failed = task.cancelled() or task.exception() is not None
            if failed and not connection.lost.done():
                _log_failure(work, task)
            await asyncio.wait({connection.lost}, timeout=WORK_RETRY if failed else None)

    async def close(self) -> None:
        """Send what is still to be sent and disconnect for good.

        A broker that hangs holds it up for a few seconds at most.
        """
        self._closing = True
        await _stop(*self._tasks)

    def _required(self) -> _Connection:
        if self._connection is None:
            raise BusUnavailableError("no connection to NATS; it is retried, so try again later")
        return self._connection

    def _start(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _keep_connected(self) -> None:
        failures = 0
        while not self._closing:
            client = Client()
            js = client.jetstream(timeout=CALL_DEADLINE)
            connection = _Connection(client, js, asyncio.get_running_loop().create_future())
            try:
                await self._dial(connection)
                failures = 0
                await self._serve(connection)
            except Exception as error:  # noqa: BLE001 - whatever it was, dial again
                failures += 1
                if failures == 1:
                    log.warning("bus.unreachable", servers=self._servers, error=repr(error))
            finally:
                await _end(client, flush=self._closing)
            if not self._closing:
                pause = min(RETRY_LONGEST, RETRY_FIRST * 2 ** min(failures, 10))
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - no secret

    async def _dial(self, connection: _Connection) -> None:
        async def on_closed() -> None:
            self._lose(connection)

        async def on_error(error: Exception) -> None:
            if connection is self._connection:
                log.warning("bus.error", error=repr(error))

        secured: dict[str, Any] = {}
        if self._tls is not None:  # the files are read for each connection: they may be new ones
            secured = {
                "tls": self._tls.files.client_context(),
                "tls_hostname": self._tls.name,
                "tls_handshake_first": True,
            }
        async with asyncio.timeout(CONNECT_DEADLINE):
            await connection.client.connect(
                self._servers,
                name=self._name,
                user=self._user,
                password=self._password,
                inbox_prefix=self._inbox_prefix,
                connect_timeout=2,
                allow_reconnect=False,
                max_reconnect_attempts=1,  # then it raises, and the pause is ours
                reconnect_time_wait=0,
                closed_cb=on_closed,
                error_cb=on_error,
                flush_timeout=CALL_DEADLINE,
                **secured,
            )

    async def _serve(self, connection: _Connection) -> None:
        self._connection = connection
        self._connections += 1
        self._up.set()
        log.info("bus.connected", servers=self._servers)
        heartbeat = asyncio.create_task(_heartbeat(connection.client))
        try:
            await _first_of(heartbeat, connection.lost)
            log.warning("bus.lost", servers=self._servers, error=_reason(heartbeat))
        finally:
            self._lose(connection)

    def _lose(self, connection: _Connection) -> None:
        if not connection.lost.done():
            connection.lost.set_result(None)
        for acknowledged in connection.waiting:
            if not acknowledged.done():
                acknowledged.set_exception(ConnectionClosedError())
        if self._connection is connection:
            self._up.clear()
            self._connection = None


def _reason(task: asyncio.Task[None]) -> str:
    return "cancelled" if task.cancelled() else repr(task.exception())


def _log_failure(work: Work, task: asyncio.Task[None]) -> None:
    error = None if task.cancelled() else task.exception()
    # What the broker or the bus said needs no traceback: a stream is still to be made, say.
    expected = error is None or isinstance(error, NatsError | BusUnavailableError)
    log.warning(
        "bus.work_failed",
        work=getattr(work, "__qualname__", repr(work)),
        error=_reason(task),
        exc_info=None if expected else error,
    )


def durable_name(name: str, password: str | None) -> str:
    """Return `name` with a suffix derived from the password of the user whose consumer it is.

    Whoever may make nameless consumers on a stream (any subscriber may) can state a name in the
    request and so change somebody's durable consumer: its name must be a secret.
    """
    if password is None:
        return name
    digest = hmac.digest(password.encode(), f"durable consumer {name}".encode(), "sha256")
    return f"{name}_{digest[:10].hex()}"


async def _heartbeat(client: Client) -> None:
    """Return by raising, when the broker does not answer any more."""
    while True:
        await asyncio.sleep(HEARTBEAT)
        async with asyncio.timeout(CALL_DEADLINE):
            await client.rtt()


async def _first_of(
    task: asyncio.Task[T], lost: asyncio.Future[None], *, limit: float | None = None
) -> None:
    """Wait until `task` is done, or cancel it once `lost` or `limit` came first."""
    futures: set[asyncio.Future[Any]] = {task, lost}
    try:
        await asyncio.wait(futures, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await _stop(task)


async def _stop(*tasks: asyncio.Task[Any]) -> None:
    """Cancel `tasks` and wait for their end, insisting: the client library loses cancellations."""
    while running := [task for task in tasks if not task.done()]:
        for task in running:
            task.cancel()
        await asyncio.wait(running, timeout=CANCEL_AGAIN)


async def _end(client: Client, *, flush: bool) -> None:
    """Close, after a flush if it is worth one; each may take CLOSE_DEADLINE at most."""
    if flush and client.is_connected:
        await _in_time(client.rtt())
    if not await _in_time(client.close()):
        # The peer reads no more, so the library waits for ever to send what is still to be sent.
        transport: Any = client._transport  # noqa: SLF001 - it has no other way to let go
        if transport is not None:
            transport.close()


async def _in_time(work: Coroutine[object, object, object]) -> bool:
    """Tell whether `work` was done; never raise, or nobody would dial again."""
    try:
        async with asyncio.timeout(CLOSE_DEADLINE):
            await work
    except Exception as error:  # noqa: BLE001 - e.g. uvloop's RuntimeError on a lost connection
        log.debug("bus.close_failed", error=repr(error))
        return False
    return True
