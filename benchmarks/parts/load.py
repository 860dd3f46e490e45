"""Ask an OpenAI-shaped server for plain or streamed answers, and measure what the caller sees.

A process of its own, so that it shares no event loop with what it measures: `measured` starts it,
it connects, warms up and says "ready", goes on when it is told to, and ends with its numbers in
JSON. Raw bytes over a Protocol, as a library's client would be slower than what it measures.
"""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal, TypeAlias, cast

import uvloop
from benchmarks.harness import ROOT, python_module
from benchmarks.parts.upstream import EVENTS

DEADLINE: Final = 120.0  # seconds

Kind: TypeAlias = Literal["plain", "unpaced", "paced"]


@dataclass(frozen=True, slots=True)
class Load:
    """What to ask, and how."""

    port: int
    token: str
    kind: Kind
    connections: int
    seconds: float = 0.0  # how long to go on asking; 0: one request a connection
    spread: float = 0.0  # over how many seconds the connections begin
    path: str = "/v1/chat/completions"
    body: dict[str, Any] | None = None  # None: what `upstream` answers according to `kind`


@dataclass(frozen=True, slots=True)
class Seen:
    """What the caller saw."""

    seconds: float
    answers: int
    first: list[float]  # seconds until the first byte of each answer's body
    whole: list[float]  # seconds until its last

    @property
    def events(self) -> int:
        """How many events the answers had."""
        return self.answers * EVENTS


def measured(load: Load, cpu_seconds: Callable[[], float]) -> tuple[Seen, float]:
    """Put `load` on a server; return what was seen, and the increase of `cpu_seconds` meanwhile.

    Raises:
        RuntimeError: the server did not answer every request with 200 and what was asked for.
    """
    argv = python_module("benchmarks.parts.load", json.dumps(asdict(load)))
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        if process.stdout.readline() != "ready\n":
            process.kill()
            raise RuntimeError(f"no {load.kind} answer on port {load.port}; see the error above")
        before = cpu_seconds()
        process.stdin.write("go\n")
        process.stdin.flush()
        output = process.stdout.readline()
        used = cpu_seconds() - before
    if process.returncode:
        raise RuntimeError(f"the load of {load.kind} answers failed; see the error above")
    return Seen(**json.loads(output)), used


class _Connection(asyncio.Protocol):
    """Sends a request and waits for the whole answer, again and again."""

    def __init__(self, request: bytes, streamed: bool) -> None:
        self._request = request
        self._streamed = streamed
        self._transport: asyncio.Transport | None = None
        self._received = b""
        self._left = -1  # bytes of the body; -1: the head is not complete, or it is chunked
        self._done: asyncio.Future[None] | None = None
        self._first_at = 0.0
        self.keep: list[bytes] | None = None  # the body, while somebody wants to look at it

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_exception(ConnectionError(f"closed in the middle of an answer: {exc}"))

    async def ask(self) -> tuple[float, float]:
        """Return the seconds until the first byte of the answer's body and until its last."""
        assert self._transport is not None
        self._received, self._left, self._first_at = b"", -1, 0.0
        self._done = asyncio.get_running_loop().create_future()
        began = time.perf_counter()
        self._transport.write(self._request)
        await self._done
        return self._first_at - began, time.perf_counter() - began

    def data_received(self, data: bytes) -> None:
        assert self._done is not None
        if not self._first_at:
            self._received += data
            head, end, data = self._received.partition(b"\r\n\r\n")
            if not end:
                return
            if not head.startswith(b"HTTP/1.1 200"):
                self._done.set_exception(RuntimeError(f"answered: {self._received[:500]!r}"))
                return
            if not self._streamed:
                length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
                self._left = int(length)
            if not data:
                return
            self._first_at = time.perf_counter()
            self._received = b""
        if self.keep is not None:
            self.keep.append(data)
        if self._streamed:
            self._received = (self._received + data)[-5:]
            whole = self._received == b"0\r\n\r\n"
        else:
            self._left -= len(data)
            whole = self._left == 0
        if whole:
            self._done.set_result(None)


async def _main(load: Load) -> None:
    loop = asyncio.get_running_loop()
    asked = load.body or {
        "model": "bench",
        "messages": [{"role": "user", "content": load.kind}],
        "stream": load.kind != "plain",
    }
    body = json.dumps(asked).encode()
    head = (
        f"POST {load.path} HTTP/1.1",
        f"host: 127.0.0.1:{load.port}",
        f"authorization: Bearer {load.token}",
        "content-type: application/json",
        f"content-length: {len(body)}",
    )
    request = "\r\n".join(head).encode() + b"\r\n\r\n" + body
    connections = []
    for _ in range(load.connections):
        _, connection = await loop.create_connection(
            lambda: _Connection(request, load.kind != "plain"), "127.0.0.1", load.port
        )
        connections.append(connection)
    await _warm_up(connections, load)
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    seen = await _seen(connections, load)
    print(json.dumps(asdict(seen)))


async def _warm_up(connections: list[_Connection], load: Load) -> None:
    """Ask once on every connection, and see that the answer is the right one."""
    answer: list[bytes] = []
    connections[0].keep = answer
    await asyncio.gather(*(connection.ask() for connection in connections))
    connections[0].keep = None
    if load.body is None and load.kind != "plain" and b"".join(answer).count(b'"delta"') < EVENTS:
        raise RuntimeError(f"this is no stream of {EVENTS} events: {b''.join(answer)[:500]!r}")


async def _seen(connections: list[_Connection], load: Load) -> Seen:
    took: list[tuple[float, float]] = []
    began = time.perf_counter()

    async def keep_asking(number: int, connection: _Connection) -> None:
        if load.spread:  # by the golden ratio: evenly, and at no multiple of the upstream's gap
            await asyncio.sleep(number * 0.618034 % 1 * load.spread)
        while True:
            took.append(await connection.ask())
            if time.perf_counter() - began >= load.seconds:
                return

    async with asyncio.timeout(load.seconds + DEADLINE):
        await asyncio.gather(*(keep_asking(*one) for one in enumerate(connections)))
    seconds = time.perf_counter() - began
    return Seen(seconds, len(took), [one[0] for one in took], [one[1] for one in took])


if __name__ == "__main__":
    uvloop.run(_main(Load(**json.loads(sys.argv[1]))))
