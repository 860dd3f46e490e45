"""HTTP to the fronts of replicas: a request, and the bytes of its answer as they come.

Just what the gateway needs of HTTP/1.1, on the parser that its server uses too. A general client
costs more for a request than all else that the gateway does (docs/decisions/0012).
"""

import asyncio
import contextlib
from collections.abc import Mapping
from functools import lru_cache
from ssl import SSLContext
from typing import Final, cast
from urllib.parse import urlsplit

import httptools

from engineshed.gateway.dataplane.connections import REPLICA_GONE, watch

# Seconds.
CONNECT_SECONDS: Final = 2.0
IDLE_SECONDS: Final = 30.0  # a front waits longer before it closes an idle connection
# How many bytes of an answer wait here for a slow caller before no more are read.
HIGH_WATER: Final = 256 * 1024

_ENDED: Final = "the front closed the connection before its answer was whole"
_FINAL: Final = 200  # lower statuses come before that of the answer


class AnswerBrokenError(ConnectionError):
    """The connection ended before the answer did, or what came is no HTTP."""


class Answer(asyncio.Protocol):
    """A connection to a front, and the answer that comes on it now."""

    def __init__(self, fronts: "Fronts", origin: str) -> None:
        self._fronts = fronts
        self._loop = fronts.loop
        self.origin = origin
        self.idle_since = 0.0
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._error: Exception | None = None
        self._asked = False
        self._reusable = False
        self._waiter: asyncio.Future[None] | None = None
        self._begin()

    def _begin(self) -> None:
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self._complete = False
        self._parts: list[bytes] = []
        self.held = 0

    @property
    def ended(self) -> bool:
        """Whether the whole answer has come and has been read."""
        return self._complete and not self._parts

    @property
    def usable(self) -> bool:
        """Whether another request may be sent."""
        return self._transport is not None and not self._transport.is_closing()

    async def ask(self, head: bytes, body: bytes) -> "Answer":
        """Send a request, and return this once the head of its answer is there.

        Raises:
            ConnectionError: the connection broke.
        """
        if self._transport is None:
            raise self._error or AnswerBrokenError("the connection is closed")
        self._begin()
        self._asked = True
        self._transport.writelines((head, body))
        try:
            while not self.status:
                await self._news()
        except BaseException:
            self.close()
            raise
        return self

    async def read(self) -> bytes:
        """Return what has come of the body, once something has; nothing at its end.

        Raises:
            ConnectionError: the connection broke; all that came before was returned.
        """
        while not self._parts:
            if self._complete:
                return b""
            await self._news()
        data = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._parts = []
        if self.held > HIGH_WATER and self._transport is not None:
            self._transport.resume_reading()
        self.held = 0
        return data

    async def whole(self, limit: int) -> bytes:
        """Return the rest of the body.

        Raises:
            ConnectionError: the connection broke.
            ValueError: it is longer than `limit` bytes.
        """
        data = b""
        while not self.ended:
            data += await self.read()
            if len(data) > limit:
                raise ValueError(f"the answer is longer than {limit:,} bytes")
        return data

    def release(self) -> None:
        """Let go: what the answer still lacks is not wanted any more."""
        self._asked = False
        if self.ended and self._reusable and self.usable:
            self._fronts.keep(self)
        else:
            self.close()

    def close(self) -> None:
        """End the connection."""
        if self._transport is not None:
            self._transport.abort()

    async def _news(self) -> None:
        if self._error is not None:
            raise self._error
        self._waiter = self._loop.create_future()
        await self._waiter

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast(asyncio.Transport, transport)
        watch(transport.get_extra_info("socket"), REPLICA_GONE)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell whoever waits."""
        self._transport = None
        self._fail(exc if isinstance(exc, OSError) else AnswerBrokenError(_ENDED))
        self._fronts.drop(self)

    def data_received(self, data: bytes) -> None:
        """Take in what has come."""
        if not self._asked:  # nobody asked for it
            self.close()
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._fail(AnswerBrokenError(f"the front does not speak HTTP: {error}"))
            self.close()
        self._wake()

    def _fail(self, error: Exception) -> None:
        if self._error is None:
            self._error = error
        self._wake()

    # What the parser calls.

    def on_message_begin(self) -> None:
        """Refuse a second answer: whoever sends one would be taken for another request's."""
        if self._complete:
            raise AnswerBrokenError("the front sent more than one answer")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take in a header."""
        self.headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        """Take in a head; that of a 1xx is not yet the answer's."""
        status = self._parser.get_status_code()
        if status < _FINAL:
            self.headers = {}
            return
        self.status = status

    def on_body(self, body: bytes) -> None:
        """Take in a piece of the body."""
        self._parts.append(body)
        before, self.held = self.held, self.held + len(body)
        if before <= HIGH_WATER < self.held and self._transport is not None:
            self._transport.pause_reading()

    def on_message_complete(self) -> None:
        """Note the end."""
        if self.status:
            self._complete = True
            self._reusable = self._parser.should_keep_alive()


class Fronts:
    """Connections to fronts, kept for the next request."""

    def __init__(self, tls: SSLContext | None = None) -> None:
        """Use `tls` where a replica's URL says https; made within the loop that uses it."""
        self.loop = asyncio.get_running_loop()
        self._tls = tls
        self._idle: dict[str, list[Answer]] = {}
        self._sweep: asyncio.TimerHandle | None = None
        self._closed = False

    async def post(self, url: str, path: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """Send a request with JSON to the front at `url`; return its answer, to be released.

        Raises:
            OSError: the front cannot be reached, or the connection broke.
            ValueError: the URL is none, or a header has characters that none may have.
        """
        return await self._ask(url, _head("POST", url, path, headers, len(body)), body)

    async def get(self, url: str, path: str, headers: Mapping[str, str]) -> Answer:
        """Ask the front at `url` for what is at `path`; the rest is as with `post`."""
        return await self._ask(url, _head("GET", url, path, headers, 0), b"")

    def keep(self, answer: Answer) -> None:
        """Keep a connection that waits for its next request."""
        if self._closed:
            answer.close()
            return
        answer.idle_since = self.loop.time()
        self._idle.setdefault(answer.origin, []).append(answer)
        if self._sweep is None:
            self._sweep = self.loop.call_later(IDLE_SECONDS, self._close_old)

    def drop(self, answer: Answer) -> None:
        """Forget a connection that is lost."""
        kept = self._idle.get(answer.origin, [])
        if answer in kept:
            kept.remove(answer)
            if not kept:
                del self._idle[answer.origin]

    def close(self) -> None:
        """End the idle connections, and keep none any more."""
        self._closed = True
        if self._sweep is not None:
            self._sweep.cancel()
        for answer in [one for kept in self._idle.values() for one in kept]:
            answer.close()

    async def _ask(self, url: str, head: bytes, body: bytes) -> Answer:
        while kept := self._take(url):
            # The front may just be closing it, unused as it was: then there is another one.
            with contextlib.suppress(ConnectionError):
                return await kept.ask(head, body)
        return await (await self._connect(url)).ask(head, body)

    def _take(self, url: str) -> Answer | None:
        kept = self._idle.pop(url, [])
        found = None
        while kept and found is None:
            answer = kept.pop()
            found = answer if answer.usable else None
        if kept:
            self._idle[url] = kept
        return found

    async def _connect(self, url: str) -> Answer:
        host, port, secure, _ = _address(url)
        async with asyncio.timeout(CONNECT_SECONDS):
            _, answer = await self.loop.create_connection(
                lambda: Answer(self, url), host, port, ssl=(self._tls or True) if secure else None
            )
        return answer

    def _close_old(self) -> None:
        self._sweep = None
        limit = self.loop.time() - IDLE_SECONDS
        for answer in [one for kept in self._idle.values() for one in kept]:
            if answer.idle_since <= limit:
                answer.close()
        if self._idle and not self._closed:
            self._sweep = self.loop.call_later(IDLE_SECONDS, self._close_old)


@lru_cache(maxsize=4096)
def _address(url: str) -> tuple[str, int, bool, str]:
    """Return the host, the port, whether to use TLS, and what the header `host` says."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"the URL of a replica is http://host:port or https://host:port: {url!r}")
    secure = parts.scheme == "https"
    return parts.hostname, parts.port or (443 if secure else 80), secure, parts.netloc


def _head(method: str, url: str, path: str, headers: Mapping[str, str], length: int) -> bytes:
    lines = [
        f"{method} {path} HTTP/1.1",
        f"host: {_address(url)[3]}",
        *(f"{name}: {value}" for name, value in headers.items()),
        f"content-length: {length}",
        "\r\n",
    ]
    head = "\r\n".join(lines)
    if not head.count("\r") == head.count("\n") == len(lines):
        raise ValueError("a header for a replica holds a line break")
    return head.encode("latin-1")
