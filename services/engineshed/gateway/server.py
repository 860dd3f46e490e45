"""The HTTP server: uvicorn, as a part of a process that minds its signals itself."""

import asyncio
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, cast

import structlog
import uvicorn
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from engineshed.gateway.app import Asgi
from engineshed.gateway.dataplane.connections import CALLER_GONE, watch
from engineshed.gateway.settings import Settings

# Longer than clients keep an idle connection, so that none is closed while it is used again.
KEEP_ALIVE_SECONDS: Final = 120

# How many requests may wait for their turn on one connection before no more is read from it.
PIPELINED: Final = 8

_UPGRADE: Final = re.compile(rb"\r\nupgrade:", re.IGNORECASE)

log: Final[structlog.stdlib.BoundLogger] = structlog.get_logger()


async def serve_http(app: Asgi, settings: Settings) -> None:
    """Serve `app` until cancelled, then give requests in flight a moment to end."""
    server = _Server(
        uvicorn.Config(
            app,
            host=settings.http_host,
            port=settings.http_port,
            http=HttpProtocol,
            ws="none",
            lifespan="off",
            access_log=False,
            log_config=None,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=settings.drain_seconds,
            ssl_certfile=settings.http_tls_cert_file,
            ssl_keyfile=settings.http_tls_key_file,
        )
    )
    log.info("ready", address=f"{settings.http_host}:{settings.http_port}")
    serving = asyncio.create_task(server.serve())
    try:
        await asyncio.shield(serving)
    finally:
        server.should_exit = True
        await serving


class HttpProtocol(HttpToolsProtocol):
    """HTTP/1.1, with three differences to uvicorn's own.

    It takes no upgrade and says so by going on, as RFC 9110 (7.8) has it. Clients that would rather
    speak HTTP/2 ask for it with their first request (Java's do so by default), and the parser would
    then take the request's body for the other protocol and lose it.

    It sends the head of an answer together with the first part of its body.

    It notices that a client left while another request of the same connection waits its turn.
    """

    _running: RequestResponseCycle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Begin with a new connection."""
        watch(transport.get_extra_info("socket"), CALLER_GONE)
        super().connection_made(cast(asyncio.Transport, _HeadWithBody(transport, self.loop)))

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the application that runs, which need not be that of the latest request."""
        running = self._running
        if running is not None and not running.response_complete:
            running.disconnected = True
            running.message_event.set()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take what has come, without a wish to upgrade in the head of a request.

        It stays as long as it was: it may be the rest of a body that was refused unread.
        """
        if (self.cycle is None or self.cycle.response_complete) and _UPGRADE.search(data):
            head, end, rest = data.partition(b"\r\n\r\n")
            data = _UPGRADE.sub(b"\r\nignored:", head) + end + rest
        super().data_received(data)

    def on_headers_complete(self) -> None:
        """Take a request; go on reading if it has to wait, as the client's leaving is read too."""
        super().on_headers_complete()
        if 0 < len(self.pipeline) <= PIPELINED:
            self.flow.resume_reading()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)


class _HeadWithBody:
    """A transport that holds the head of an answer back for what is written right after it.

    One system call and one packet less for each answer. What is not followed at once by something
    else goes out in the next turn of the event loop.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._head = b""

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever else a transport has
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        if self._head:
            head, self._head = self._head, b""
            self._transport.writelines((head, data))
        elif data.startswith(b"HTTP/1.1 ") and data.endswith(b"\r\n\r\n"):
            self._head = data
            self._loop.call_soon(self._flush)
        else:
            self._transport.write(data)

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def _flush(self) -> None:
        if self._head:
            head, self._head = self._head, b""
            self._transport.write(head)


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # SIGTERM is the process's
