"""Calls over h2, answered by the server of the grpc library."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from typing import Any, TypeVar

import grpc
import pytest
from tritonclient.grpc import service_pb2_grpc
from tritonclient.grpc.service_pb2 import ModelInferRequest, ModelStreamInferResponse

from engineshed.triton import streams as module
from engineshed.triton.streams import Streams, TritonGoneError

T = TypeVar("T")

DEADLINE = 30.0


class Triton(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]  # it has no types
    """Says what the request's id tells it to, and what it was asked with."""

    def __init__(self) -> None:
        self.left: asyncio.Queue[str] = asyncio.Queue()

    async def ModelStreamInfer(self, requests: Any, context: Any) -> AsyncIterator[Any]:
        async for request in requests:
            word, _, argument = request.id.partition(" ")
            if word == "count":
                for number in range(int(argument)):
                    yield ModelStreamInferResponse(error_message=str(number))
            elif word == "fill":
                yield ModelStreamInferResponse(error_message="x" * int(argument))
            elif word == "measure":
                size = len(request.raw_input_contents[0])
                yield ModelStreamInferResponse(error_message=str(size))
            elif word == "fail":
                await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "not today, 50 % off")
            elif word == "metadata":
                value = dict(context.invocation_metadata())[argument]
                yield ModelStreamInferResponse(error_message=value)
            elif word == "hang":
                try:
                    yield ModelStreamInferResponse(error_message="begun")
                    await asyncio.Event().wait()
                finally:
                    self.left.put_nowait(argument)


class Server:
    def __init__(self) -> None:
        self.triton = Triton()
        self.port = 0
        self._server: Any = None

    async def start(self) -> None:
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(self.triton, self._server)
        self.port = self._server.add_insecure_port(f"127.0.0.1:{self.port}")
        await self._server.start()

    async def stop(self) -> None:
        await self._server.stop(0)


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    it = Server()
    await it.start()
    yield it
    await it.stop()


@pytest.fixture
async def streams(server: Server) -> AsyncIterator[Streams]:
    it = Streams(server.port)
    yield it
    await it.close()


async def ask(streams: Streams, id_: str, raw: bytes = b"", **metadata: str) -> list[str]:
    said: list[str] = []
    request = ModelInferRequest(id=id_, raw_input_contents=[raw]).SerializeToString()
    await soon(
        streams.call(
            request,
            lambda data: said.append(ModelStreamInferResponse.FromString(data).error_message),
            metadata,
        )
    )
    return said


async def soon(work: Awaitable[T]) -> T:
    return await asyncio.wait_for(work, DEADLINE)


async def test_many_calls_get_all_their_messages_in_order(streams: Streams) -> None:
    answers = await asyncio.gather(*(ask(streams, f"count {count}") for count in range(50)))

    assert answers == [[str(number) for number in range(count)] for count in range(50)]


async def test_messages_of_many_frames_and_windows_arrive_whole(streams: Streams) -> None:
    size = 3_000_000  # a window is 64 KiB at first

    assert await ask(streams, f"fill {size}") == ["x" * size]
    assert await ask(streams, "measure", b"x" * size) == [str(size)]


async def test_many_large_requests_share_the_windows(streams: Streams) -> None:
    sizes = range(100_000, 1_000_000, 100_000)
    answers = await asyncio.gather(*(ask(streams, "measure", b"x" * size) for size in sizes))

    assert answers == [[str(size)] for size in sizes]


async def test_a_cancelled_call_is_cancelled_at_the_server_and_others_go_on(
    streams: Streams, server: Server
) -> None:
    begun = asyncio.Event()
    request = ModelInferRequest(id="hang a").SerializeToString()
    hanging = asyncio.create_task(streams.call(request, lambda _: begun.set(), {}))
    other = asyncio.create_task(ask(streams, "hang b"))
    await soon(begun.wait())

    hanging.cancel()

    assert await soon(server.triton.left.get()) == "a"
    assert await ask(streams, "count 1") == ["0"]
    assert not other.done()
    other.cancel()
    assert await soon(server.triton.left.get()) == "b"


async def test_the_status_of_a_failed_call_is_told(streams: Streams) -> None:
    with pytest.raises(TritonGoneError, match="not today, 50 % off"):
        await ask(streams, "fail")
    assert await ask(streams, "count 1") == ["0"]


async def test_what_the_receiver_raises_ends_its_call_alone(
    streams: Streams, server: Server
) -> None:
    def refuse(_: bytes) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await soon(streams.call(ModelInferRequest(id="hang c").SerializeToString(), refuse, {}))

    assert await soon(server.triton.left.get()) == "c"
    assert await ask(streams, "count 1") == ["0"]


async def test_a_receiver_that_has_raised_gets_nothing_more(streams: Streams) -> None:
    taken = 0

    def refuse(_: bytes) -> None:
        nonlocal taken
        taken += 1
        raise ZeroDivisionError

    request = ModelInferRequest(id="count 2000").SerializeToString()
    with pytest.raises(ZeroDivisionError):
        await soon(streams.call(request, refuse, {}))

    assert taken == 1


async def test_metadata_goes_with_the_call(streams: Streams) -> None:
    assert await ask(streams, "metadata traceparent", traceparent="00-1") == ["00-1"]


async def test_calls_fail_when_the_server_ends_and_succeed_when_it_is_back(
    streams: Streams, server: Server
) -> None:
    begun = asyncio.Event()
    request = ModelInferRequest(id="hang d").SerializeToString()
    hanging = asyncio.create_task(streams.call(request, lambda _: begun.set(), {}))
    await soon(begun.wait())

    await server.stop()
    with pytest.raises(TritonGoneError):
        await soon(hanging)
    with pytest.raises(TritonGoneError):
        await ask(streams, "count 1")

    await server.start()
    assert await ask(streams, "count 1") == ["0"]


async def test_closing_ends_the_calls_at_work(streams: Streams) -> None:
    begun = asyncio.Event()
    request = ModelInferRequest(id="hang e").SerializeToString()
    hanging = asyncio.create_task(streams.call(request, lambda _: begun.set(), {}))
    await soon(begun.wait())

    await streams.close()

    with pytest.raises(TritonGoneError):
        await soon(hanging)


async def test_a_connection_whose_ids_are_used_up_gives_way_to_a_new_one(
    streams: Streams, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LAST_STREAM", 4)
    begun = asyncio.Event()
    request = ModelInferRequest(id="hang f").SerializeToString()
    hanging = asyncio.create_task(streams.call(request, lambda _: begun.set(), {}))
    await soon(begun.wait())

    assert [await ask(streams, "count 1") for _ in range(5)] == [["0"]] * 5

    assert not hanging.done()
    hanging.cancel()
