"""gRPC's credentials from the files of a part, and the names of whoever is at the other end."""

from collections.abc import Callable
from typing import Any

import grpc
import structlog

from engineshed.runtime.tls import Tls

log = structlog.get_logger()


def channel_credentials(files: Tls) -> grpc.ChannelCredentials:
    """Return credentials that present the certificate, as it is now."""
    return grpc.ssl_channel_credentials(
        files.authority.read_bytes(), files.key.read_bytes(), files.certificate.read_bytes()
    )


def server_credentials(files: Tls) -> grpc.ServerCredentials:
    """Return credentials that demand a certificate of the authority.

    Files that are replaced count from the next connection on.
    """
    return grpc.dynamic_ssl_server_credentials(
        _configuration(files),
        _replaced(files),  # type: ignore[arg-type]  # the stubs do not know that None is "as before"
        require_client_authentication=True,
    )


def names_of_peer(context: grpc.aio.ServicerContext[Any, Any]) -> frozenset[str]:
    """Return what the caller's certificate names; nothing where the connection is plain."""
    names = context.auth_context().get("x509_subject_alternative_name", ())
    return frozenset(name.decode() for name in names)


def _configuration(files: Tls) -> grpc.ServerCertificateConfiguration:
    pair = (files.key.read_bytes(), files.certificate.read_bytes())
    return grpc.ssl_server_certificate_configuration([pair], files.authority.read_bytes())


def _replaced(files: Tls) -> Callable[[], grpc.ServerCertificateConfiguration | None]:
    stamp = files.stamp()

    def fetch() -> grpc.ServerCertificateConfiguration | None:
        """Return what is new since the last connection; gRPC asks in a thread of its own."""
        nonlocal stamp
        try:
            if stamp == files.stamp():
                return None
            files.check()
            stamp, found = files.stamp(), _configuration(files)
        except (OSError, ValueError) as error:  # half of them is written
            log.warning("certificate_not_replaced", error=str(error))
            return None
        log.info("certificate_replaced", file=str(files.certificate))
        return found

    return fetch
