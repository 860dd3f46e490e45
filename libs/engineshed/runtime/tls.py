"""The certificates by which the parts know each other.

All of them are signed by one private authority, and each names its part, e.g.
`scheduler.engineshed.internal`. Whoever dials a part looks for that name, at whatever address it
found it; whoever is dialled looks for the caller's. So no holder of another part's certificate can
stand in for it, not even on the same host. The front of a replica is dialled at an address that
came over the bus: there the certificate must name that address.
"""

import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

DOMAIN: Final = "engineshed.internal"

Stamp = tuple[tuple[int, int], ...]

log = structlog.get_logger()


class CertificateError(ValueError):
    """The files of certificate, key and authority cannot be used; the message says why."""


def part_name(part: str) -> str:
    """Return the name that a certificate of `part` carries; of an agent of any node: `agent`."""
    return f"{part}.{DOMAIN}"


def node_name(hostname: str) -> str:
    """Return the name that the certificate of the agent on a host carries beside its part's."""
    return f"{hostname.lower()}.agent.{DOMAIN}"


@dataclass(frozen=True, slots=True)
class Tls:
    """The files of one part: its certificate (PEM, with the chain), its key, and the authority."""

    certificate: Path
    key: Path
    authority: Path

    def to(self, part: str) -> "TlsPeer":
        """Return how to dial `part` with them."""
        return TlsPeer(self, part)

    def check(self) -> None:
        """Return if the files can be used.

        Raises:
            CertificateError: one cannot be read, is none, or the key is another certificate's.

        """
        self.client_context()

    def stamp(self) -> Stamp:
        """Return what is another one as soon as a file has been replaced.

        Raises:
            OSError: one cannot be read now.

        """
        return tuple((found.st_ino, found.st_mtime_ns) for found in map(Path.stat, self._files()))

    def client_context(self) -> ssl.SSLContext:
        """Return a context to dial with.

        Raises:
            CertificateError: see `check`.

        """
        return self._context(ssl.PROTOCOL_TLS_CLIENT)

    def server_context(self) -> ssl.SSLContext:
        """Return a context to listen with; it demands a certificate of the authority.

        Files that are replaced count from the next connection on.

        Raises:
            CertificateError: see `check`.

        """
        present, stamp = self._context(ssl.PROTOCOL_TLS_SERVER), self.stamp()

        def on_connection(connection: ssl.SSLObject, *_: object) -> None:
            nonlocal present, stamp
            try:
                if stamp != self.stamp():
                    stamp, present = self.stamp(), self._context(ssl.PROTOCOL_TLS_SERVER)
                    log.info("certificate_replaced", file=str(self.certificate))
            except (OSError, CertificateError) as error:  # half of them is written
                log.warning("certificate_not_replaced", error=str(error))
            connection.context = present

        first = self._context(ssl.PROTOCOL_TLS_SERVER)
        first.sni_callback = on_connection
        return first

    def _context(self, protocol: ssl._SSLMethod) -> ssl.SSLContext:
        context = ssl.SSLContext(protocol)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.verify_mode = ssl.CERT_REQUIRED
        try:
            context.load_verify_locations(self.authority)
        except (OSError, ssl.SSLError) as error:
            raise CertificateError(
                f"{self.authority} is no file of certificates: {error}"
            ) from error
        try:
            context.load_cert_chain(self.certificate, self.key)
        except (OSError, ssl.SSLError) as error:
            raise CertificateError(
                f"{self.certificate} and {self.key} are no certificate and its key: {error}"
            ) from error
        return context

    def _files(self) -> Iterator[Path]:
        yield from (self.certificate, self.key, self.authority)


@dataclass(frozen=True, slots=True)
class TlsPeer:
    """How to dial a part: with which files, and who must answer."""

    files: Tls
    part: str

    @property
    def name(self) -> str:
        """The name that the other side's certificate must carry."""
        return part_name(self.part)
