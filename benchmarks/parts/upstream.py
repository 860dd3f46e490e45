"""An OpenAI-shaped server that answers at once, too lean to be what is measured.

`python -m benchmarks.parts.upstream PORT`. The text of a request's message chooses the answer:
"plain" is one JSON body, "unpaced" EVENTS events as fast as they are taken, "paced" the same with
one every GAP seconds. Raw bytes over a Protocol: no parser, no objects for a request.
"""

import asyncio
import json
import sys
from typing import Final, cast

import uvloop

EVENTS: Final = 64
GAP: Final = 0.01  # seconds


def _event(delta: dict[str, str], finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    event = {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1700000000,
        "model": "bench",
        "choices": [choice],
    }
    return b"data: " + json.dumps(event).encode() + b"\n\n"


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


_MESSAGE: Final = {"role": "assistant", "content": "a plain answer of some twenty words " * 3}
_ANSWER: Final = json.dumps(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1700000000,
        "model": "bench",
        "choices": [{"index": 0, "message": _MESSAGE, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 8, "completion_tokens": 24, "total_tokens": 32},
    }
).encode()
_PLAIN: Final = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
    % (len(_ANSWER), _ANSWER)
)
_STREAM_HEAD: Final = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-cache\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)
_FIRST: Final = _STREAM_HEAD + _chunk(_event({"role": "assistant", "content": "a"}))
_NEXT: Final = _chunk(_event({"content": " token"}))
_LAST: Final = _chunk(_event({"content": "."}, "stop")) + _chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"


class Upstream(asyncio.Protocol):
    """One connection; one request at a time."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the protocol's
        self._transport = None

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        if not end or len(body) < _content_length(head):
            return
        self._received = b""
        if b'"paced"' in body:
            self._send(1, GAP, self._loop.time())
        elif b'"unpaced"' in body:
            self._send(1, 0, 0)
        elif self._transport is not None:
            self._transport.write(_PLAIN)

    def _send(self, number: int, gap: float, began: float) -> None:
        """Send an event, and see to it that the next one follows."""
        if self._transport is None:
            return
        match number:
            case 1:
                self._transport.write(_FIRST)
            case n if n == EVENTS:
                self._transport.write(_LAST)
                return
            case _:
                self._transport.write(_NEXT)
        if gap:
            self._loop.call_at(began + number * gap, self._send, number + 1, gap, began)
        else:
            self._loop.call_soon(self._send, number + 1, gap, began)


def _content_length(head: bytes) -> int:
    return int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0] or 0)


async def main() -> None:
    """Serve until killed."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Upstream, "127.0.0.1", int(sys.argv[1]))
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
