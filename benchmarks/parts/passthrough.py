"""The limit for a gateway of library code: ASGI on uvicorn, aiohttp's client, and nothing else.

`python -m benchmarks.parts.passthrough PORT UPSTREAM_URL`. It authenticates nobody, chooses
nothing, counts nothing and logs nothing.
"""

import sys
from typing import Any

import aiohttp
import uvicorn
import uvloop


class PassThrough:
    """The application."""

    def __init__(self, session: aiohttp.ClientSession, upstream: str) -> None:
        self._session = session
        self._upstream = upstream

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401 - ASGI's
        body = b""
        while True:
            message = await receive()
            body += message["body"]
            if not message["more_body"]:
                break
        headers = {"content-type": "application/json"}
        async with self._session.post(
            self._upstream + scope["path"], data=body, headers=headers
        ) as response:
            passed = [
                (name.encode(), response.headers[name].encode())
                for name in ("content-type", "content-length")
                if name in response.headers
            ]
            await send(
                {"type": "http.response.start", "status": response.status, "headers": passed}
            )
            async for chunk in response.content.iter_any():
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b""})


async def main() -> None:
    """Serve until killed."""
    port, upstream = int(sys.argv[1]), sys.argv[2]
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, auto_decompress=False) as session:
        config = uvicorn.Config(
            PassThrough(session, upstream),
            port=port,
            http="httptools",
            lifespan="off",
            access_log=False,
            log_level="warning",
        )
        await uvicorn.Server(config).serve()


if __name__ == "__main__":
    uvloop.run(main())
