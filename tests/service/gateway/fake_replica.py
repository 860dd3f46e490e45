"""A stand-in for replicas' fronts: it streams, stalls, breaks and refuses as it is told."""

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

SECRET = "replica-secret"


@dataclass
class FakeReplica:
    """One front on a port of its own."""

    mode: str = "answer"
    port: int = 0
    seen: Counter[str] = field(default_factory=Counter)
    bodies: list[bytes] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    began: asyncio.Event = field(default_factory=asyncio.Event)
    left: asyncio.Event = field(default_factory=asyncio.Event)
    go_on: asyncio.Event = field(default_factory=asyncio.Event)
    runner: Any = None

    async def start(self) -> "FakeReplica":
        app = web.Application()
        app.router.add_post("/v1/{path:.*}", self._handle)
        self.runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await self.runner.setup()
        site = web.TCPSite(self.runner, "127.0.0.1", 0)
        await site.start()
        self.port = self.runner.addresses[0][1]
        return self

    async def stop(self) -> None:
        await self.runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self.seen[self.mode] += 1
        self.bodies.append(await request.read())
        self.headers.append(dict(request.headers))
        self.began.set()
        match self.mode:
            case "answer":
                return web.json_response({"choices": [], "from": self.port})
            case "full" | "full later" | "draining":
                if self.mode == "full later":
                    await self.go_on.wait()
                code = "draining" if self.mode == "draining" else "overloaded"
                error = {"message": "full", "type": "x", "param": None, "code": code}
                return web.json_response({"error": error}, status=503, headers={"retry-after": "1"})
            case "invalid":
                error = {"message": "no", "type": "x", "param": "n", "code": "invalid_value"}
                return web.json_response({"error": error}, status=400)
            case "drop":
                assert request.transport is not None
                request.transport.close()
                return web.Response()
            case "stall":
                return await self._stall()
            case _:
                return await self._stream(request)

    async def _stall(self) -> web.StreamResponse:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.left.set()
            raise
        return web.Response()

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        try:
            await response.write(b'data: {"n": 1}\n\n')
            if self.mode == "break":
                assert request.transport is not None
                request.transport.abort()
                return response
            await self.go_on.wait()
            await response.write(b'data: {"n": 2}\n\ndata: [DONE]\n\n')
            await response.write_eof()
        except (asyncio.CancelledError, ConnectionError):
            self.left.set()
            raise
        return response
