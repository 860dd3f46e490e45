"""The gateway's public port with a certificate of its own."""

import asyncio
import socket
import ssl
from pathlib import Path

import aiohttp
import pytest
from tests.service.certificates import Certificates

from engineshed.gateway.dataplane.http import Receive, Scope, Send, answer_json
from engineshed.gateway.server import serve_http
from engineshed.gateway.settings import Settings


async def says_how(scope: Scope, receive: Receive, send: Send) -> None:
    await answer_json(send, {"scheme": scope["scheme"]})


async def test_with_a_certificate_it_speaks_https(tmp_path: Path) -> None:
    files = Certificates(tmp_path / "certs").of("gateway")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    settings = Settings(
        state_dir=tmp_path,
        service_token_file=tmp_path / "token",
        services_file=tmp_path / "services.json",
        http_port=port,
        http_tls_cert_file=files.certificate,
        http_tls_key_file=files.key,
    )
    serving = asyncio.create_task(serve_http(says_how, settings))
    callers = ssl.create_default_context(cafile=str(files.authority))
    try:
        async with aiohttp.ClientSession() as session, asyncio.timeout(20):
            assert await answer(session, port, callers) == {"scheme": "https"}
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


async def answer(session: aiohttp.ClientSession, port: int, callers: ssl.SSLContext) -> object:
    """Return the answer, once the server listens."""
    while True:
        try:
            async with session.get(f"https://127.0.0.1:{port}/", ssl=callers) as response:
                return await response.json()
        except aiohttp.ClientConnectorCertificateError:
            raise
        except aiohttp.ClientConnectorError:
            await asyncio.sleep(0.01)


def test_a_certificate_needs_its_key(tmp_path: Path) -> None:
    files = Certificates(tmp_path / "certs").of("gateway")
    with pytest.raises(ValueError, match="ENGINESHED_HTTP_TLS_KEY_FILE go together"):
        Settings(
            state_dir=tmp_path,
            service_token_file=tmp_path / "token",
            services_file=tmp_path / "services.json",
            http_tls_cert_file=files.certificate,
        )


def test_endpoints_have_https_urls_where_callers_speak_https(tmp_path: Path) -> None:
    files = Certificates(tmp_path / "certs").of("gateway")
    plain = Settings(
        state_dir=tmp_path,
        service_token_file=tmp_path / "token",
        services_file=tmp_path / "services.json",
    )
    certified = plain.model_copy(update={"http_tls_cert_file": files.certificate})
    balanced = plain.model_copy(update={"public_scheme": "https"})

    assert [one.scheme for one in (plain, certified, balanced)] == ["http", "https", "https"]
