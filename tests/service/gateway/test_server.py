"""The gateway's HTTP server, met by clients that speak HTTP in their own ways."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import aiohttp
import pytest

from engineshed.gateway.app import Asgi
from engineshed.gateway.dataplane.connections import watch
from engineshed.gateway.dataplane.http import Receive, Scope, Send, answer_json, read_body
from engineshed.gateway.server import PIPELINED, serve_http
from engineshed.gateway.settings import Settings

Serve = Callable[[Asgi], Awaitable[int]]

BODY = json.dumps({"model": "bot", "prompt": "hi\r\nupgrade: no header\r\n\r\n"})


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    body = await read_body(receive)
    await answer_json(send, {"method": scope["method"], "body": body.decode()})


@pytest.fixture
async def serve(tmp_path: Path) -> AsyncIterator[Serve]:
    serving: list[asyncio.Task[None]] = []

    async def start(app: Asgi) -> int:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        settings = Settings(
            state_dir=tmp_path,
            service_token_file=tmp_path / "token",
            services_file=tmp_path / "services.json",
            http_port=port,
            drain_seconds=1,
        )
        serving.append(asyncio.create_task(serve_http(app, settings)))
        async with asyncio.timeout(10):
            while not await _listens(port):
                await asyncio.sleep(0.01)
        return port

    yield start
    for task in serving:
        task.cancel()
    await asyncio.gather(*serving, return_exceptions=True)


@pytest.fixture
async def port(serve: Serve) -> int:
    return await serve(echo)


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except ConnectionRefusedError:
        return False
    writer.close()
    return True


async def test_a_client_that_would_rather_speak_http_2_loses_nothing(port: int) -> None:
    headers = {
        "connection": "Upgrade, HTTP2-Settings",
        "upgrade": "h2c",
        "http2-settings": "AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA",
        "content-type": "application/json",
    }
    url = f"http://127.0.0.1:{port}/v1/completions"
    async with aiohttp.ClientSession() as client:
        for _ in range(2):  # the connection stays usable
            async with client.post(url, data=BODY, headers=headers) as answer:
                assert answer.status == 200
                assert (await answer.json())["body"] == BODY


async def test_what_looks_like_an_upgrade_in_a_body_is_left_alone(port: int) -> None:
    url = f"http://127.0.0.1:{port}/"
    async with aiohttp.ClientSession() as client, client.post(url, data=BODY) as answer:
        assert (await answer.json()) == {"method": "POST", "body": BODY}


async def test_the_head_of_an_answer_does_not_wait_for_its_body(serve: Serve) -> None:
    go_on = asyncio.Event()

    async def answers_slowly(_scope: Scope, receive: Receive, send: Send) -> None:
        await read_body(receive)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await go_on.wait()
        await send({"type": "http.response.body", "body": b"late"})

    port = await serve(answers_slowly)
    url = f"http://127.0.0.1:{port}/"
    async with (
        asyncio.timeout(10),
        aiohttp.ClientSession() as client,
        client.post(url, data=BODY) as answer,
    ):
        go_on.set()
        assert await answer.read() == b"late"


async def test_a_client_that_leaves_while_its_next_request_waits_is_noticed(serve: Serve) -> None:
    began, noticed = asyncio.Event(), asyncio.Event()

    async def never_answers(_scope: Scope, receive: Receive, _send: Send) -> None:
        await read_body(receive)
        began.set()
        while (await receive())["type"] != "http.disconnect":
            pass
        noticed.set()

    port = await serve(never_answers)
    request = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}"
    async with asyncio.timeout(10):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request)
        await began.wait()
        writer.write(request)
        await writer.drain()
        writer.close()
        await noticed.wait()


async def test_requests_that_wait_on_one_connection_are_answered_in_order(port: int) -> None:
    async with asyncio.timeout(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for number in range(2 * PIPELINED):
            body = str(number).encode()
            writer.write(b"POST / HTTP/1.1\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
        for number in range(2 * PIPELINED):
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.partition(b"content-length: ")[2].split(b"\r\n")[0])
            assert json.loads(await reader.readexactly(length))["body"] == str(number)
        writer.close()


async def test_connections_break_when_the_other_host_is_gone() -> None:
    with socket.socket() as connection:
        watch(connection, 15)
        probes = [
            connection.getsockopt(socket.IPPROTO_TCP, option)
            for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
        ]
        assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert probes[0] + probes[1] * probes[2] <= 15
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 15_000
