"""Triton's gRPC method ModelStreamInfer over h2, without grpc's client.

Each token is a message, and grpc.aio takes longer for a message than all that is made of it. Here
one read of the socket brings whatever messages have come, of all calls, and each goes to its
receiver at once: no task wakes for it. (`benchmarks/replica.py` has a bare grpc.aio beside this.)

It does what this one method on loopback needs: plain text, a single request for a call, and any
number of responses. One connection carries all calls; a new one is made when it is gone.
"""

import asyncio
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeAlias, cast
from urllib.parse import unquote

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    RemoteSettingsChanged,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
    WindowUpdated,
)
from h2.exceptions import ProtocolError

Take: TypeAlias = Callable[[bytes], None]

_METHOD: Final = "/inference.GRPCInferenceService/ModelStreamInfer"
_HEADER: Final = struct.Struct(">BI")
"""Before each message: whether it is compressed, and its length."""
_MORE_WINDOW: Final = 1024 * 1024
"""What Triton may send on top of HTTP/2's 64 KiB, so that it need not stop when we are busy."""
_LAST_STREAM: Final = 2**31 - 2**16
"""Stream ids end at 2**31: a connection whose ids come near takes no more calls."""


class TritonGoneError(Exception):
    """Triton did not answer the call to its end; the message is the reason."""


class Streams:
    """Calls to the Triton that listens on a port of this host."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._connection: _Connection | None = None
        self._connecting = asyncio.Lock()

    async def call(self, request: bytes, take: Take, metadata: Mapping[str, str]) -> None:
        """Send a request and give each response to `take`, until there are no more.

        Cancelling it cancels the call. What `take` raises ends the call and is raised here.

        Raises:
            TritonGoneError: instead of the rest of the responses.

        """
        connection = await self._connected()
        try:
            call = connection.begin(request, take, metadata)
        except ProtocolError as error:
            raise TritonGoneError(f"it takes no more calls: {error}") from error
        try:
            await call.over
        finally:
            connection.leave(call)

    async def close(self) -> None:
        """Cut off what is running and disconnect."""
        if self._connection is not None:
            self._connection.close()

    async def _connected(self) -> "_Connection":
        async with self._connecting:
            if self._connection is None or not self._connection.takes_calls:
                loop = asyncio.get_running_loop()
                try:
                    _, self._connection = await loop.create_connection(
                        _Connection, "127.0.0.1", self._port
                    )
                except OSError as error:
                    raise TritonGoneError(f"it does not listen: {error.strerror}") from error
            return self._connection


class _Call:
    """One call: what is still to be sent, and what has come of a message."""

    def __init__(self, stream: int, request: bytes, take: Take) -> None:
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.stream = stream
        self.request = memoryview(_HEADER.pack(0, len(request)) + request)
        self.status = self.message = b""
        self._take = take
        self._received = b""

    def receive(self, data: bytes) -> None:
        """Take the next bytes of the responses; none after one that could not be taken."""
        if self.over.done():
            return
        if self._received:
            data = self._received + data
        start = 0
        while len(data) - start >= _HEADER.size:
            compressed, length = _HEADER.unpack_from(data, start)
            end = start + _HEADER.size + length
            if compressed:  # though we never said that we could read it
                raise TritonGoneError("it compresses its answers")
            if len(data) < end:
                break
            self._take(data[start + _HEADER.size : end])
            start = end
        self._received = data[start:]

    def read_headers(self, headers: Sequence[tuple[bytes, bytes]]) -> None:
        """Take note of how it ended, if they say so."""
        said = dict(headers)
        self.status = said.get(b"grpc-status", self.status)
        self.message = said.get(b"grpc-message", self.message)

    def end(self) -> None:
        """Take note that there is no more."""
        if self.status == b"0":
            if not self.over.done():
                self.over.set_result(None)
        else:
            told = unquote(self.message.decode(errors="replace"))
            self.fail(TritonGoneError(told or f"gRPC status {self.status.decode() or 'unknown'}"))

    def fail(self, error: Exception) -> None:
        """End it with an error."""
        if not self.over.done():
            self.over.set_exception(error)


class _Connection(asyncio.Protocol):
    def __init__(self) -> None:
        self._http = H2Connection(H2Configuration(client_side=True, header_encoding=None))
        self._calls: dict[int, _Call] = {}
        self._transport: asyncio.Transport
        self.takes_calls = True

    def begin(self, request: bytes, take: Take, metadata: Mapping[str, str]) -> _Call:
        call = _Call(self._http.get_next_available_stream_id(), request, take)
        self.takes_calls = call.stream < _LAST_STREAM
        headers = {
            ":method": "POST",
            ":scheme": "http",
            ":path": _METHOD,
            ":authority": "localhost",
            "te": "trailers",
            "content-type": "application/grpc",
            **metadata,
        }
        self._http.send_headers(call.stream, list(headers.items()))
        self._calls[call.stream] = call
        self._send_more(call)
        self._flush()
        return call

    def leave(self, call: _Call) -> None:
        """Forget the call; if it is not over, tell Triton that nobody wants the rest."""
        if self._calls.pop(call.stream, None) is not None:
            self._http.reset_stream(call.stream, ErrorCodes.CANCEL)
            self._flush()
        self._close_when_done()

    def close(self) -> None:
        self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._http.initiate_connection()
        self._http.increment_flow_control_window(_MORE_WINDOW)
        self._flush()

    def data_received(self, data: bytes) -> None:
        try:
            for event in self._http.receive_data(data):
                self._handle(event)
        except ProtocolError as error:
            self._transport.abort()
            self._fail_all(TritonGoneError(f"it broke HTTP/2: {error}"))
        else:
            self._flush()

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail_all(TritonGoneError(f"the connection is lost: {exc or 'closed'}"))

    def _handle(self, event: Event) -> None:
        if isinstance(event, DataReceived):
            self._http.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            if call := self._calls.get(event.stream_id):
                try:
                    call.receive(event.data)
                except Exception as error:  # noqa: BLE001 - raised where the call is awaited
                    call.fail(error)
        elif isinstance(event, (ResponseReceived, TrailersReceived)):
            if call := self._calls.get(event.stream_id):
                call.read_headers(event.headers)
        elif isinstance(event, StreamEnded):
            if call := self._calls.pop(event.stream_id, None):
                call.end()
        elif isinstance(event, StreamReset):
            if call := self._calls.pop(event.stream_id, None):
                call.fail(TritonGoneError(f"it reset the call ({event.error_code!r})"))
        elif isinstance(event, (WindowUpdated, RemoteSettingsChanged)):
            for call in self._calls.values():
                self._send_more(call)
        elif isinstance(event, ConnectionTerminated):  # h2 reads no more then
            self._fail_all(TritonGoneError("it says goodbye"))
            self._transport.close()

    def _send_more(self, call: _Call) -> None:
        """Send as much of the request as Triton has room for."""
        while call.request:
            room = self._http.local_flow_control_window(call.stream)
            room = min(room, self._http.max_outbound_frame_size)
            if room <= 0:
                return
            piece, call.request = call.request[:room], call.request[room:]
            self._http.send_data(call.stream, bytes(piece), end_stream=not call.request)

    def _flush(self) -> None:
        if data := self._http.data_to_send():
            self._transport.write(data)

    def _close_when_done(self) -> None:
        if not (self.takes_calls or self._calls):
            self._transport.close()

    def _fail_all(self, error: TritonGoneError) -> None:
        self.takes_calls = False
        calls, self._calls = self._calls, {}
        for call in calls.values():
            call.fail(error)
