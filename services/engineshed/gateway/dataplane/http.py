"""The little of HTTP that the data plane needs, in ASGI's terms."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Coroutine, Iterable, MutableMapping
from http import HTTPStatus
from typing import Any, Final, TypeAlias, TypeVar

from engineshed.gateway.dataplane.errors import OpenAIError

T = TypeVar("T")
Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
Header: TypeAlias = tuple[bytes, bytes]

MAX_BODY_BYTES: Final = 8 * 1024 * 1024  # as much as a replica takes
JSON: Final = (b"content-type", b"application/json")


class ClientGoneError(Exception):
    """The client has closed the connection."""


def header(scope: Scope, name: bytes) -> str:
    """Return a request header, or an empty string."""
    for key, value in scope["headers"]:
        if key == name:
            return str(value, "latin-1")
    return ""


async def read_body(receive: Receive, limit: int = MAX_BODY_BYTES) -> bytes:
    """Return the whole body of `limit` bytes at most.

    Raises:
        ClientGoneError: the client left in the middle of it.
        OpenAIError: it is too large.
    """
    chunks: list[bytes] = []
    total = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        chunk = message.get("body", b"")
        total += len(chunk)
        if total > limit:
            raise OpenAIError(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                "body_too_large",
                f"the body is larger than {limit:,} bytes",
            )
        chunks.append(chunk)
        if not message.get("more_body"):
            return chunks[0] if len(chunks) == 1 else b"".join(chunks)


async def while_there(work: Coroutine[Any, Any, T], receive: Receive) -> T:
    """Await `work`, but no longer than the client stays: what nobody reads is not worth a GPU.

    Raises:
        ClientGoneError: it left; `work` was cancelled and has ended.
    """
    working = asyncio.current_task()
    assert working is not None
    left = False

    def leave(watching: asyncio.Task[None]) -> None:
        nonlocal left
        if not watching.cancelled() and watching.exception() is None:
            left = True
            working.cancel()  # it waits in `work`, which is where this is raised

    watching = asyncio.create_task(_until_gone(receive))
    watching.add_done_callback(leave)
    try:
        return await work
    except asyncio.CancelledError:
        if left and not working.uncancel():
            raise ClientGoneError from None
        raise  # somebody else wants an end too
    finally:
        watching.remove_done_callback(leave)
        watching.cancel()


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def answer(send: Send, status: int, body: bytes, headers: Iterable[Header] = (JSON,)) -> None:
    """Send a whole answer."""
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
    await send({"type": "http.response.body", "body": body})


async def answer_json(send: Send, value: object, headers: Iterable[Header] = ()) -> None:
    """Send `value` as JSON with status 200."""
    await answer(send, HTTPStatus.OK, json.dumps(value).encode(), [JSON, *headers])


async def answer_error(send: Send, error: OpenAIError, headers: Iterable[Header] = ()) -> None:
    """Send an error in OpenAI's shape."""
    extra = [JSON, *headers]
    if error.retry_after is not None:
        extra.append((b"retry-after", str(error.retry_after).encode()))
    if error.allow:
        extra.append((b"allow", error.allow.encode()))
    if error.status == HTTPStatus.UNAUTHORIZED:
        extra.append((b"www-authenticate", b"Bearer"))
    await answer(send, error.status, error.body(), extra)
