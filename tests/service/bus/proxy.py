"""A TCP proxy that does what networks do: cuts connections, delays, swallows, splits messages."""

import asyncio
from asyncio import StreamReader, StreamWriter
from typing import Final

_CHUNK: Final = 65_536


class Proxy:
    """Passes connections on to one port of this machine, until it is told not to."""

    def __init__(self, upstream: int) -> None:
        self._upstream = upstream
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._bytes_left: int | None = None  # that may still go upstream before all is cut
        self.answers_after = 0.0  # seconds later than they came

    async def start(self, host: str = "127.0.0.1") -> int:
        """Listen; return the port."""
        self._server = await asyncio.start_server(self._serve, host, 0)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def stop(self) -> None:
        """Listen no more and end all connections."""
        if self._server is not None:
            self._server.close()
        self.cut()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def cut(self) -> None:
        """End all connections at once, with what is under way."""
        for connection in self._connections:
            connection.cancel()

    def cut_after(self, count: int) -> None:
        """End all connections once so many more bytes went upstream, in the middle of a message."""
        self._bytes_left = count

    def hang(self) -> None:
        """Pass nothing on either way, and accept new connections all the same."""
        self._flowing.clear()

    def go_on(self) -> None:
        """Pass on what was held back, and what comes."""
        self._flowing.set()

    async def _serve(self, reader: StreamReader, writer: StreamWriter) -> None:
        connection = asyncio.current_task()
        assert connection is not None
        self._connections.add(connection)
        writers = [writer]
        try:
            answers, upstream = await asyncio.open_connection("127.0.0.1", self._upstream)
            writers.append(upstream)
            async with asyncio.TaskGroup() as both:
                both.create_task(self._ask(reader, upstream))
                both.create_task(self._answer(answers, writer))
        except* (OSError, asyncio.CancelledError):
            pass
        finally:
            self._connections.discard(connection)
            for one in writers:
                one.transport.abort()

    async def _ask(self, reader: StreamReader, writer: StreamWriter) -> None:
        while data := await reader.read(_CHUNK):
            await self._flowing.wait()
            if self._bytes_left is not None:
                data = data[: self._bytes_left]
                self._bytes_left -= len(data)
            writer.write(data)
            await writer.drain()
            if self._bytes_left == 0:
                self._bytes_left = None
                self.cut()
        raise ConnectionResetError

    async def _answer(self, reader: StreamReader, writer: StreamWriter) -> None:
        while data := await reader.read(_CHUNK):
            await self._flowing.wait()
            await asyncio.sleep(self.answers_after)
            writer.write(data)
            await writer.drain()
        raise ConnectionResetError
