"""The gateway's HTTP server, met by clients that speak HTTP in their own ways."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from engineshed.gateway.dataplane.http import Receive, Scope, Send, answer_json, read_body
from engineshed.gateway.server import serve_http
from engineshed.gateway.settings import Settings

BODY = json.dumps({"model": "bot", "prompt": "hi\r\nupgrade: no header\r\n\r\n"})


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    body = await read_body(receive)
    await answer_json(send, {"method": scope["method"], "body": body.decode()})


@pytest.fixture
async def port(tmp_path: Path) -> AsyncIterator[int]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    settings = Settings(
        state_dir=tmp_path,
        service_token_file=tmp_path / "token",
        services_file=tmp_path / "services.json",
        http_port=port,
    )
    serving = asyncio.create_task(serve_http(echo, settings))
    async with asyncio.timeout(10):
        while not await _listens(port):
            await asyncio.sleep(0.01)
    yield port
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)


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
