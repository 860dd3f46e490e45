"""One application on one port: inference goes to the data plane, the rest to the control plane."""

from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Final

from engineshed.gateway.dataplane import DataPlane
from engineshed.gateway.dataplane.errors import OpenAIError
from engineshed.gateway.dataplane.http import (
    ClientGoneError,
    Message,
    Receive,
    Scope,
    Send,
    answer,
    read_body,
)

MAX_CONTROL_BYTES: Final = 1024 * 1024

Asgi = Callable[[Scope, Receive, Send], Awaitable[None]]


class Gateway:
    """The ASGI application that the server runs."""

    def __init__(self, data_plane: DataPlane, control_plane: Asgi) -> None:
        self._data_plane = data_plane
        self._control_plane = control_plane

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._control_plane(scope, receive, send)
        elif self._data_plane.serves(scope):
            await self._data_plane(scope, receive, send)
        else:
            await self._control(scope, receive, send)

    async def _control(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read the body before the framework does, so that its size is bounded."""
        try:
            body = await read_body(receive, MAX_CONTROL_BYTES)
        except ClientGoneError:
            return
        except OpenAIError as error:
            problem = (
                b'{"type": "/problems/body-too-large", "title": "Content Too Large", '
                b'"status": 413, "detail": "%s", "errors": []}' % error.message.encode()
            )
            await answer(
                send,
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                problem,
                [(b"content-type", b"application/problem+json")],
            )
            return
        await self._control_plane(scope, _replay(body, receive), send)


def _replay(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that gives the body that was read, then what comes after it."""
    left: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def next_message() -> Message:
        return left.pop() if left else await receive()

    return next_message
