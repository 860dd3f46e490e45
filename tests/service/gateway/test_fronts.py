"""The gateway's side of HTTP to replicas' fronts, against fronts that misbehave."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import pytest

from engineshed.gateway.dataplane.fronts import HIGH_WATER, Answer, Fronts

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
PLAIN = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


@dataclass
class Front:
    """A server whose connections do what a test says."""

    fronts: Fronts
    handler: Handler
    url: str = ""
    connections: int = 0
    left: asyncio.Event = field(default_factory=asyncio.Event)

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            await self.handler(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            self.left.set()
        finally:
            writer.close()

    async def ask(self, headers: dict[str, str] | None = None) -> Answer:
        return await self.fronts.post(self.url, "/v1/completions", headers or {}, b"{}")


async def request(reader: asyncio.StreamReader) -> bytes:
    return await reader.readuntil(b"\r\n\r\n{}")


@pytest.fixture
async def front() -> AsyncIterator[Callable[[Handler], Awaitable[Front]]]:
    fronts, servers = Fronts(), []

    async def start(handler: Handler) -> Front:
        made = Front(fronts, handler)
        server = await asyncio.start_server(made.connected, "127.0.0.1", 0)
        servers.append(server)
        made.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        return made

    async with asyncio.timeout(20):
        yield start
    fronts.close()
    for server in servers:
        server.close()


def says(*answers: bytes, close: bool = False) -> Handler:
    """Return what answers one request after another on a connection, then ends it or waits."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in answers:
            await request(reader)
            writer.write(answer)
        if not close:
            await reader.readexactly(1)

    return handle


async def whole(front: Front) -> bytes:
    answer = await front.ask()
    try:
        return await answer.whole(1000)
    finally:
        answer.release()


async def test_a_connection_serves_one_request_after_another(front) -> None:
    chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n1\r\nb\r\n0\r\n\r\n"
    there = await front(says(PLAIN, chunked, PLAIN))

    assert [await whole(there) for _ in range(3)] == [b"ok", b"ab", b"ok"]
    assert there.connections == 1


async def test_requests_at_once_have_connections_of_their_own(front) -> None:
    there = await front(says(PLAIN))
    assert list(await asyncio.gather(whole(there), whole(there))) == [b"ok", b"ok"]
    assert there.connections == 2


async def test_a_connection_that_was_closed_while_idle_costs_nothing(front) -> None:
    there = await front(says(PLAIN, close=True))
    assert [await whole(there) for _ in range(3)] == [b"ok"] * 3


async def test_a_connection_that_closes_when_it_is_used_again_is_replaced(front) -> None:
    async def serves_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        writer.write(PLAIN)
        await request(reader)  # as a front does whose patience ends in that very moment

    there = await front(serves_once)
    assert [await whole(there) for _ in range(3)] == [b"ok"] * 3
    assert there.connections == 3


async def test_what_came_of_a_broken_answer_is_delivered_before_the_error(front) -> None:
    there = await front(says(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf", close=True))
    answer = await there.ask()
    assert await answer.read() == b"half"
    with pytest.raises(ConnectionError):
        await answer.read()
    assert not answer.ended


@pytest.mark.parametrize("said", [b"", b"SSH-2.0-x\r\n", b"HTTP/1.1 200 OK\r\ncontent-le"])
async def test_what_is_no_answer_is_a_broken_connection(front, said) -> None:
    there = await front(says(said, close=True))
    with pytest.raises(ConnectionError):
        await there.ask()


async def test_an_answer_that_ends_with_the_connection_is_broken(front) -> None:
    there = await front(says(b"HTTP/1.1 200 OK\r\n\r\nhalf?", close=True))
    answer = await there.ask()
    with pytest.raises(ConnectionError):
        await answer.whole(1000)


async def test_early_hints_are_not_the_answer(front) -> None:
    there = await front(says(b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + PLAIN))
    answer = await there.ask()
    assert answer.status == 200
    assert b"link" not in answer.headers
    assert await answer.whole(1000) == b"ok"


async def test_a_second_answer_is_nobodys(front) -> None:
    there = await front(says(PLAIN + PLAIN.replace(b"ok", b"no"), PLAIN))
    assert [await whole(there) for _ in range(2)] == [b"ok", b"ok"]
    assert there.connections == 2


async def test_letting_go_early_ends_the_work_at_the_front(front) -> None:
    there = await front(says(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf"))
    answer = await there.ask()
    answer.release()
    await there.left.wait()


async def test_a_slow_caller_holds_the_front_up(front) -> None:
    size = 64 * HIGH_WATER
    written = asyncio.Event()

    async def pours(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size)
        writer.write(bytes(size))
        await writer.drain()
        written.set()
        await reader.readexactly(1)

    there = await front(pours)
    answer = await there.ask()
    other = await there.ask()  # what it takes to be read is under way for both
    assert len(await other.whole(size)) == size
    assert written.is_set()
    assert answer.held < size // 4
    assert len(await answer.whole(size)) == size


async def test_no_header_reaches_a_front_that_would_be_two(front) -> None:
    there = await front(says(PLAIN))
    with pytest.raises(ValueError, match="line break"):
        await there.ask({"authorization": "Bearer x\r\nx-other: y"})
    assert there.connections == 0
