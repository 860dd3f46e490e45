"""A broker with TLS: who is let in, and whom a bus believes to be the broker."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.service.certificates import Certificates

from engineshed.bus import Bus
from engineshed.bus.embedded import config_path
from engineshed.runtime.tls import Tls, TlsPeer

from .conftest import DEADLINE, Broker, eventually


def require_tls(broker: Broker, files: Tls) -> None:
    """Give a broker that is not started yet a certificate."""
    path = config_path(broker.state_dir)
    config = json.loads(path.read_text())
    config["tls"] = {
        "cert_file": str(files.certificate),
        "key_file": str(files.key),
        "ca_file": str(files.authority),
        "verify": True,
        "handshake_first": "auto",
    }
    path.write_text(json.dumps(config))


@asynccontextmanager
async def connecting(broker: Broker, tls: TlsPeer | None) -> AsyncIterator[Bus]:
    bus = await Bus.connect(broker.urls["scheduler"], name="scheduler", tls=tls)
    try:
        yield bus
    finally:
        await bus.close()


async def connects(bus: Bus) -> None:
    async with asyncio.timeout(DEADLINE):
        await bus.wait_connected()


async def is_refused(broker: Broker, why: str) -> None:
    """Return once the broker has logged that it refused somebody; a bus tries for ever."""
    log = broker.state_dir / "nats-server.log"
    await eventually(lambda: why in log.read_text())


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path / "certs")


@pytest.fixture
async def secured(stopped_broker: Broker, certificates: Certificates) -> Broker:
    require_tls(stopped_broker, certificates.of("nats"))
    await stopped_broker.start()
    return stopped_broker


async def test_a_bus_with_a_certificate_connects(
    secured: Broker, certificates: Certificates
) -> None:
    async with connecting(secured, certificates.of("scheduler").to("nats")) as bus:
        await connects(bus)


async def test_a_certificate_of_another_authority_is_refused(
    secured: Broker, certificates: Certificates, tmp_path: Path
) -> None:
    foreign = Certificates(tmp_path / "foreign").of("scheduler")
    files = Tls(foreign.certificate, foreign.key, certificates.of("nats").authority)
    async with connecting(secured, files.to("nats")) as bus:
        await is_refused(secured, "TLS handshake error")
        assert not bus.connected


async def test_a_renewed_certificate_counts_from_the_next_connection_on(
    secured: Broker, certificates: Certificates
) -> None:
    mine = certificates.of("scheduler")
    async with connecting(secured, mine.to("nats")) as bus:
        await connects(bus)
        mine.key.write_bytes(b"")  # the connection that is there does not need it
        assert bus.connected
        certificates.of("scheduler")
        await secured.restart()
        await connects(bus)


async def test_a_bus_tells_no_password_to_whoever_is_not_the_broker(
    certificates: Certificates, tmp_path: Path
) -> None:
    """A broker in plain text speaks first, and would be answered with the password."""
    heard: list[bytes] = []
    came = asyncio.Event()

    async def pretend(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"server_id":"x","version":"2.11.0","max_payload":1048576}\r\n')
        heard.append(await reader.read(65_536))
        came.set()
        writer.close()

    server = await asyncio.start_server(pretend, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        bus = await Bus.connect(
            f"nats://scheduler:hunter2@127.0.0.1:{port}",
            name="scheduler",
            tls=certificates.of("scheduler").to("nats"),
        )
        async with asyncio.timeout(DEADLINE):
            await came.wait()
        await bus.close()

    assert b"hunter2" not in b"".join(heard)


async def test_a_bus_believes_no_other_part_to_be_the_broker(
    stopped_broker: Broker, certificates: Certificates
) -> None:
    require_tls(stopped_broker, certificates.of("agent"))
    await stopped_broker.start()
    async with connecting(stopped_broker, certificates.of("scheduler").to("nats")) as bus:
        await is_refused(stopped_broker, "TLS handshake error")
        assert not bus.connected
