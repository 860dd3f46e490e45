"""A certificate authority for development: EC P-256 keys, files in one folder."""

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final, Self

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from engineshed.runtime import write_private

AUTHORITY_LIFE: Final = timedelta(days=5 * 365)

# Clocks differ a little from host to host.
_SKEW: Final = timedelta(minutes=5)


class AuthorityError(Exception):
    """The authority cannot be used; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Authority:
    """Signs certificates."""

    folder: Path
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @classmethod
    def create(cls, folder: Path, now: datetime) -> Self:
        """Make a new one, in place of what is there.

        Raises:
            OSError: a file cannot be written.

        """
        key = ec.generate_private_key(ec.SECP256R1())
        subject = _subject("Engineshed development authority")
        certificate = (
            _builder(subject, subject, key.public_key(), now, now + AUTHORITY_LIFE)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs_certificates=True), critical=True)
            .sign(key, SHA256())
        )
        _write_pair(folder, "ca", certificate, key)
        return cls(folder, certificate, key)

    @classmethod
    def open(cls, folder: Path) -> Self | None:
        """Read the one that is there; None: there is none.

        Raises:
            AuthorityError: its files cannot be used.

        """
        if not (folder / "ca.crt").exists() and not (folder / "ca.key").exists():
            return None
        try:
            certificate = x509.load_pem_x509_certificate((folder / "ca.crt").read_bytes())
            key = load_pem_private_key((folder / "ca.key").read_bytes(), password=None)
        except (OSError, ValueError, TypeError) as error:
            raise AuthorityError(
                f"{folder / 'ca.crt'} and {folder / 'ca.key'} cannot be read ({error}); bring them "
                "back, or make a new authority with --force: all parts then need new certificates"
            ) from error
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise AuthorityError(f"{folder / 'ca.key'} is no EC key; use another folder")
        return cls(folder, certificate, key)

    def issue(self, stem: str, names: Sequence[str], now: datetime, expiry: datetime) -> None:
        """Make or renew `<stem>.crt` and `<stem>.key`; what the old one names stays named.

        Raises:
            OSError: a file cannot be written.

        """
        names = list(dict.fromkeys([*names, *names_in(self.folder / f"{stem}.crt")]))
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = (
            _builder(_subject(stem), self.certificate.subject, key.public_key(), now, expiry)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage(
                    [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
                ),
                critical=False,
            )
            .add_extension(x509.SubjectAlternativeName(_general(names)), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()),
                critical=False,
            )
            .sign(self.key, SHA256())
        )
        _write_pair(self.folder, stem, certificate, key)


def names_in(path: Path) -> list[str]:
    """Return what the certificate in a file names; nothing when there is none."""
    try:
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return []
    found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return [str(name.value) for name in found]


def _subject(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    now: datetime,
    expiry: datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(expiry)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _general(names: Iterable[str]) -> list[x509.GeneralName]:
    found: list[x509.GeneralName] = []
    for name in names:
        try:
            found.append(x509.IPAddress(ipaddress.ip_address(name)))
        except ValueError:
            found.append(x509.DNSName(name))
    return found


def _write_pair(
    folder: Path, stem: str, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey
) -> None:
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    write_private(folder / f"{stem}.key", secret)
    write_private(folder / f"{stem}.crt", certificate.public_bytes(Encoding.PEM))
    (folder / f"{stem}.crt").chmod(0o644)
