"""Servers that are not gRPC's: fronts' HTTP and metrics, with certificates that are renewed."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.service.certificates import Certificates

from engineshed.runtime.tls import Tls


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path / "certs")


@pytest.fixture
async def port(certificates: Certificates) -> AsyncIterator[int]:
    """A server with an agent's certificate, which says hello."""

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello")
        writer.close()

    context = certificates.of("agent").server_context()
    server = await asyncio.start_server(greet, "127.0.0.1", 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def shown(port: int, context: ssl.SSLContext) -> bytes:
    """Return the certificate of a server that has said hello."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    try:
        assert await reader.read() == b"hello"
        connection: ssl.SSLObject = writer.get_extra_info("ssl_object")
        return connection.getpeercert(binary_form=True) or b""
    finally:
        writer.close()


def der(files: Tls) -> bytes:
    return ssl.PEM_cert_to_DER_cert(files.certificate.read_text())


async def test_a_renewed_certificate_is_shown_from_the_next_connection_on(
    port: int, certificates: Certificates
) -> None:
    caller = certificates.of("gateway").client_context()
    old = await shown(port, caller)
    renewed = certificates.of("agent")

    assert await shown(port, caller) == der(renewed) != old


async def test_half_a_renewal_leaves_the_old_certificate(
    port: int, certificates: Certificates
) -> None:
    caller = certificates.of("gateway").client_context()
    old = await shown(port, caller)
    certificates.of("agent").key.write_text("half of a")

    assert await shown(port, caller) == old


@pytest.mark.parametrize("renewed", [False, True])
async def test_callers_need_a_certificate_before_and_after_a_renewal(
    port: int, certificates: Certificates, renewed: bool
) -> None:
    files = certificates.of("agent") if renewed else certificates.of("gateway")
    nobody = ssl.create_default_context(cafile=str(files.authority))

    with pytest.raises((OSError, AssertionError)):
        await shown(port, nobody)
