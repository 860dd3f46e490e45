"""One application on one port: inference goes to the data plane, the rest to the control plane."""

from collections.abc import Awaitable, Callable
from typing import Final

from starlette.requests import Request

from engineshed.gateway.controlplane.problems import problem
from engineshed.gateway.dataplane import DataPlane
from engineshed.gateway.dataplane.errors import OpenAIError
from engineshed.gateway.dataplane.http import (
    ClientGoneError,
    Message,
    Receive,
    Scope,
    Send,
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
        """Answer one request; HEAD as GET, whose body the server then leaves out."""
        if scope.get("method") == "HEAD":
            scope = {**scope, "method": "GET"}
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
            refusal = problem(Request(scope), error.status, error.code.upper(), error.message)
            await refusal(scope, receive, send)
            return
        await self._control_plane(scope, _replay(body, receive), send)


def _replay(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that gives the body that was read, then what comes after it."""
    left: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def next_message() -> Message:
        return left.pop() if left else await receive()

    return next_message
