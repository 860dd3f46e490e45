"""`GET /metrics` of a process that serves no HTTP else: one small server, for holders of a token.

What it tells is the operator's to see: it counts the objects of all organizations.
"""

import asyncio
import hmac
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Final

import structlog

from engineshed.runtime import CommonSettings
from engineshed.telemetry.exposition import CONTENT_TYPE, Exposition

PATH: Final = "/metrics"
DEADLINE_SECONDS: Final = 10.0
_LONGEST_HEAD: Final = 16 * 1024

log: Final[structlog.stdlib.BoundLogger] = structlog.get_logger()


@asynccontextmanager
async def serve_metrics(settings: CommonSettings, exposition: Exposition) -> AsyncIterator[str]:
    """Serve `exposition` for the time of the block; yield the address, with the port taken.

    It listens where the settings say, or not at all if they say nothing.

    Raises:
        ValueError: it should listen, but there is no token, or the address is none.
        OSError: it cannot listen there, or the token cannot be read.

    """
    if not settings.metrics_listen:
        yield ""
        return
    host, _, port = settings.metrics_listen.rpartition(":")
    if not host or not port.isdigit():
        raise ValueError(f"ENGINESHED_METRICS_LISTEN={settings.metrics_listen!r} is not host:port")
    token = await asyncio.to_thread(_token, settings.metrics_token_file)
    answerer = _Answerer(exposition, f"Bearer {token}".encode())
    server = await asyncio.start_server(
        answerer.serve,
        host.strip("[]"),
        int(port),
        limit=_LONGEST_HEAD,
        ssl=settings.tls.server_context() if settings.tls else None,
    )
    address = f"{host}:{server.sockets[0].getsockname()[1]}"
    log.info("metrics", address=address)
    try:
        yield address
    finally:
        server.close()  # those that are being answered end with the process


def _token(file: Path | None) -> str:
    if file is None:
        raise ValueError(
            "ENGINESHED_METRICS_LISTEN is set, so ENGINESHED_METRICS_TOKEN_FILE must name a file "
            "with the token that Prometheus sends"
        )
    token = file.read_text().strip()
    if not token:
        raise ValueError(f"ENGINESHED_METRICS_TOKEN_FILE: {file} is empty")
    return token


class _Answerer:
    def __init__(self, exposition: Exposition, authorization: bytes) -> None:
        self._exposition = exposition
        self._authorization = authorization

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request; the connection is closed then."""
        try:
            async with asyncio.timeout(DEADLINE_SECONDS):
                head = await reader.readuntil(b"\r\n\r\n")
                writer.write(await self._answer(head))
                await writer.drain()
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # no scraper: none of them sends long heads, or leaves in the middle
        except Exception:
            log.exception("metrics not collected")
            writer.write(_response(HTTPStatus.INTERNAL_SERVER_ERROR, b"see the log\n"))
        finally:
            writer.close()

    async def _answer(self, head: bytes) -> bytes:
        request, *lines = head.decode("latin-1").split("\r\n")
        method, _, target = request.rpartition(" ")[0].partition(" ")
        headers = {name.lower(): value.strip() for name, _, value in map(_halves, lines)}
        given = headers.get("authorization", "").encode("latin-1")
        if not hmac.compare_digest(given, self._authorization):
            text = b"send the header: Authorization: Bearer <the metrics token>\n"
            return _response(HTTPStatus.UNAUTHORIZED, text, "WWW-Authenticate: Bearer\r\n")
        if target.partition("?")[0] != PATH:
            return _response(HTTPStatus.NOT_FOUND, b"there is /metrics\n")
        if method != "GET":
            return _response(HTTPStatus.METHOD_NOT_ALLOWED, b"use GET\n", "Allow: GET\r\n")
        body = await self._exposition.text()
        return _response(HTTPStatus.OK, body, content_type=CONTENT_TYPE)


def _halves(line: str) -> tuple[str, str, str]:
    return line.partition(":")


def _response(
    status: HTTPStatus, body: bytes, extra: str = "", content_type: str = "text/plain"
) -> bytes:
    head = (
        f"HTTP/1.1 {int(status)} {status.phrase}\r\nContent-Type: {content_type}\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n{extra}\r\n"
    )
    return head.encode() + body
