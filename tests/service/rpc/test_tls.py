"""Servers and channels with certificates: who gets through, and who does not."""

import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from tests.service.certificates import Certificates

from engineshed.api.catalog.v1 import hold_service_pb2 as pb
from engineshed.api.catalog.v1.hold_service_pb2_grpc import (
    HoldServiceStub,
    add_HoldServiceServicer_to_server,
)
from engineshed.rpc import Access, RpcServer, open_channel
from engineshed.runtime.tls import Tls, TlsPeer

from .conftest import LIST, METHODS, Callers, Holds, refused

SCHEDULER = "svc_scheduler"


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path / "certs")


@pytest.fixture
async def catalog(certificates: Certificates, holds: Holds) -> AsyncIterator[str]:
    """The address of a server with the catalog's certificate."""
    server = RpcServer(
        "127.0.0.1:0",
        Callers(),
        {METHODS + "ListHolds": Access("artifacts:read", frozenset({"scheduler"}))},
        tls=certificates.of("catalog"),
    )
    server.add(add_HoldServiceServicer_to_server, holds)
    yield await server.start()
    await server.stop(0)


async def call(address: str, token: str, tls: TlsPeer | None) -> object:
    async with open_channel(address, token, "test", tls=tls) as channel:
        return await HoldServiceStub(channel).ListHolds(LIST)


async def test_a_service_with_its_own_certificate_gets_through(
    catalog: str, certificates: Certificates, holds: Holds
) -> None:
    answer = await call(catalog, SCHEDULER, certificates.of("scheduler").to("catalog"))

    assert answer == pb.ListHoldsResponse()
    assert "scheduler.engineshed.internal" in holds.calls[0].certified


async def test_plain_text_is_refused(catalog: str, holds: Holds) -> None:
    error = await refused(call(catalog, SCHEDULER, None))

    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert not holds.calls


async def test_without_a_certificate_nobody_gets_through(
    catalog: str, certificates: Certificates, holds: Holds
) -> None:
    authority = certificates.of("scheduler").authority.read_bytes()
    async with grpc.aio.secure_channel(
        catalog,
        grpc.ssl_channel_credentials(authority),
        [("grpc.default_authority", "catalog.engineshed.internal")],
    ) as channel:
        metadata = [("authorization", f"Bearer {SCHEDULER}")]
        error = await refused(HoldServiceStub(channel).ListHolds(LIST, metadata=metadata))

    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert not holds.calls


async def test_a_certificate_of_another_authority_is_refused(
    catalog: str, certificates: Certificates, tmp_path: Path, holds: Holds
) -> None:
    foreign = Certificates(tmp_path / "foreign").of("scheduler")
    known = certificates.of("gateway").authority  # or else the client would refuse the server
    error = await refused(
        call(catalog, SCHEDULER, Tls(foreign.certificate, foreign.key, known).to("catalog"))
    )

    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert not holds.calls


async def test_a_services_token_is_worth_nothing_beside_anothers_certificate(
    catalog: str, certificates: Certificates, holds: Holds
) -> None:
    error = await refused(call(catalog, SCHEDULER, certificates.of("gateway").to("catalog")))

    assert error.code() is grpc.StatusCode.PERMISSION_DENIED
    assert not holds.calls


async def test_a_callers_token_needs_no_certificate_of_its_own(
    catalog: str, certificates: Certificates
) -> None:
    answer = await call(catalog, "es_reader", certificates.of("gateway").to("catalog"))
    assert answer == pb.ListHoldsResponse()


async def test_a_client_talks_to_nobody_but_the_part_it_means(
    catalog: str, certificates: Certificates, holds: Holds
) -> None:
    error = await refused(call(catalog, SCHEDULER, certificates.of("gateway").to("scheduler")))

    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert not holds.calls


async def test_a_new_certificate_is_shown_from_the_next_connection_on(
    catalog: str, certificates: Certificates
) -> None:
    mine = certificates.of("scheduler")
    await call(catalog, SCHEDULER, mine.to("catalog"))
    renewed = certificates.of("catalog")  # in the same files

    await call(catalog, SCHEDULER, mine.to("catalog"))

    host, _, port = catalog.partition(":")
    shown = ssl.get_server_certificate((host, int(port)))
    assert x509.load_pem_x509_certificate(shown.encode()) == x509.load_pem_x509_certificate(
        renewed.certificate.read_bytes()
    )


async def test_half_a_renewal_leaves_the_old_certificate(
    catalog: str, certificates: Certificates
) -> None:
    mine = certificates.of("scheduler")
    key = certificates.of("gateway").key.read_bytes()
    certificates.of("catalog").key.write_bytes(key)

    assert await call(catalog, SCHEDULER, mine.to("catalog")) == pb.ListHoldsResponse()
