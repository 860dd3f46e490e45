"""One HTTP request and its response, on bare ASGI."""

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any, Final, TypeAlias

from ulid import ULID

from engineshed.replica.errors import ApiError

Scope: TypeAlias = Mapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]

MAX_BODY_BYTES: Final = 8 * 1024 * 1024
JSON: Final = b"application/json"

_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_PATIENCE_SECONDS: Final = 300.0
"""How long a client may leave what was sent to it unread."""


class ClientGoneError(Exception):
    """The client went away; nobody is left to answer."""


class Exchange:
    """A request, and the response that is sent to it piece by piece.

    Attributes:
        status: of the response, once it was begun; 0 before.
        complete: whether all of the response was sent.

    """

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.status = 0
        self.complete = False
        self._sending = False
        self._sent = 0
        self._headers: list[tuple[bytes, bytes]] = scope["headers"]
        self._receive = receive
        self._send = send
        given = (self.header(b"x-request-id") or b"").decode("latin-1")
        self.request_id = given if _REQUEST_ID.fullmatch(given) else str(ULID())

    def header(self, name: bytes) -> bytes | None:
        """Return the first header of this name (in lower case)."""
        return next((value for key, value in self._headers if key == name), None)

    async def body(self) -> bytes:
        """Read the body.

        Raises:
            ApiError: 413, it is too long.
            ClientGoneError: it never came.

        """
        length = self.header(b"content-length") or b""
        if length.isdigit() and int(length) > MAX_BODY_BYTES:
            raise _too_long()
        chunks, size = [], 0
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientGoneError
            chunk = message.get("body", b"")
            chunks.append(chunk)
            size += len(chunk)
            if size > MAX_BODY_BYTES:
                raise _too_long()
            if not message.get("more_body", False):
                return b"".join(chunks)

    async def gone(self) -> None:
        """Return when the client goes away, or reads nothing for minutes.

        For use once the body was read.
        """
        leaving = asyncio.create_task(self._disconnected())
        try:
            while not leaving.done():
                sent = self._sent
                await asyncio.wait({leaving}, timeout=_PATIENCE_SECONDS)
                if self._sending and self._sent == sent:
                    return
        finally:
            leaving.cancel()
            await asyncio.gather(leaving, return_exceptions=True)

    async def respond(
        self, status: int, body: bytes, content_type: bytes = JSON, *extra: tuple[bytes, bytes]
    ) -> None:
        """Send a whole response."""
        await self._begin(status, content_type, (b"content-length", b"%d" % len(body)), *extra)
        await self.write(body, more=False)

    async def respond_json(self, status: int, body: object) -> None:
        """Send a whole response with `body` as JSON."""
        await self.respond(status, json.dumps(body).encode())

    async def refuse(self, error: ApiError) -> None:
        """Send an error as the whole response."""
        extra = []
        if error.retry_after is not None:
            extra.append((b"retry-after", b"%d" % error.retry_after))
        await self.respond(error.status, error.body(), JSON, *extra)

    async def begin_stream(self) -> None:
        """Begin a response of server-sent events."""
        await self._begin(200, b"text/event-stream; charset=utf-8", (b"cache-control", b"no-cache"))

    async def write(self, data: bytes, *, more: bool = True) -> None:
        """Send the next bytes of the response; wait while the client is behind.

        Raises:
            ClientGoneError: it is away.

        """
        await self._deliver({"type": "http.response.body", "body": data, "more_body": more})
        self.complete = not more

    async def _begin(self, status: int, content_type: bytes, *extra: tuple[bytes, bytes]) -> None:
        self.status = status
        headers = [
            (b"content-type", content_type),
            (b"x-request-id", self.request_id.encode()),
            *extra,
        ]
        await self._deliver({"type": "http.response.start", "status": status, "headers": headers})

    async def _deliver(self, message: MutableMapping[str, Any]) -> None:
        self._sending = True
        try:
            await self._send(message)
        except OSError as error:  # uvicorn's word for a closed connection
            raise ClientGoneError from error
        self._sending = False
        self._sent += 1

    async def _disconnected(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass


def _too_long() -> ApiError:
    limit = MAX_BODY_BYTES // 1024 // 1024
    return ApiError(413, f"The body is longer than {limit} MiB.", code="body_too_large")
