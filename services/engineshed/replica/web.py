"""The HTTP server: uvicorn, as a part of a process that minds its signals itself."""

import asyncio
import contextlib
import socket
from collections.abc import Generator
from typing import Final

import uvicorn

from engineshed.replica.api import Api
from engineshed.runtime.tls import Tls

_KEEP_ALIVE_SECONDS: Final = 120
"""Longer than clients keep an idle connection, so that none is closed while it is used again."""
_CLOSE_SECONDS: Final = 2
_BACKLOG: Final = 2048


class WebServer:
    """Serves the API on a port of its own.

    Attributes:
        host: the address it listens on, as URLs have it.
        url: where it answers.

    """

    def __init__(self, api: Api, host: str, tls: Tls | None = None) -> None:
        """Listen on `host`; with `tls`, callers need a certificate of its authority."""
        self._socket = socket.create_server((host, 0), family=_family(host), backlog=_BACKLOG)
        self.host = f"[{host}]" if ":" in host else host
        scheme = "https" if tls else "http"
        self.url = f"{scheme}://{self.host}:{self._socket.getsockname()[1]}"
        config = uvicorn.Config(
            api,
            http="httptools",
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            date_header=False,
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=_CLOSE_SECONDS,
            ssl_context_factory=(lambda *_: tls.server_context()) if tls else None,
        )
        self._server = _Server(config)
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to serve; callers that come before it does wait in the backlog."""
        self._task = asyncio.create_task(self._server.serve(sockets=[self._socket]))

    async def run(self) -> None:
        """Return when it ends."""
        assert self._task is not None, "started before"
        await asyncio.shield(self._task)

    async def stop(self) -> None:
        """Close all connections; those that are still answering are cut after 2 s."""
        self._server.should_exit = True
        if self._task is not None:
            await self._task


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield  # SIGTERM is the front's


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
