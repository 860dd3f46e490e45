"""The HTTP server: uvicorn, as a part of a process that minds its signals itself."""

import asyncio
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import structlog
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from engineshed.gateway.app import Asgi
from engineshed.gateway.settings import Settings

# Longer than clients keep an idle connection, so that none is closed while it is used again.
KEEP_ALIVE_SECONDS: Final = 120

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
    """HTTP/1.1 that takes no upgrade and says so by going on, as RFC 9110 (7.8) has it.

    Clients that would rather speak HTTP/2 ask for it with their first request (Java's do so by
    default). The parser would then take the request's body for the other protocol and lose it.
    """

    def data_received(self, data: bytes) -> None:
        """Take what has come, without a wish to upgrade in the head of a request.

        It stays as long as it was: it may be the rest of a body that was refused unread.
        """
        if self.cycle is None or self.cycle.response_complete:
            head, end, rest = data.partition(b"\r\n\r\n")
            data = _UPGRADE.sub(b"\r\nignored:", head) + end + rest
        super().data_received(data)


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # SIGTERM is the process's
