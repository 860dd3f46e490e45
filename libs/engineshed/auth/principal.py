"""A caller and its rights."""

import hashlib
import secrets
import string
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from engineshed.api.catalog.v1.token_service_pb2 import TokenGrant
from engineshed.errors import DomainError, Kind

OPERATOR: Final = "operator"
ADMIN: Final = "admin"
SCOPES: Final = (
    "endpoints:read",
    "endpoints:write",
    "inference",
    "artifacts:read",
    "artifacts:write",
    ADMIN,
    OPERATOR,
)

_ALPHABET: Final = string.ascii_letters + string.digits
_SECRET_LENGTH: Final = 43  # 62**43 > 2**256


class UnauthenticatedError(DomainError):
    """There is no valid token."""

    kind = Kind.UNAUTHENTICATED
    reason = "UNAUTHENTICATED"


class ForbiddenError(DomainError):
    """The token is valid, but may not do this."""

    kind = Kind.FORBIDDEN
    reason = "PERMISSION_DENIED"


@dataclass(frozen=True, slots=True)
class Principal:
    """An authenticated caller: a token of an organization, or a service of the platform."""

    name: str  # "tok_…", or the service's name
    org_id: str  # "_platform" for services
    scopes: frozenset[str]
    is_service: bool = False

    def may(self, scope: str) -> bool:
        """Tell whether the caller has `scope`; admin has all of its organization's."""
        return scope in self.scopes or (scope != OPERATOR and ADMIN in self.scopes)

    @property
    def sees_all(self) -> bool:
        """Whether the caller may look across organizations."""
        return self.is_service or OPERATOR in self.scopes


def new_secret(prefix: str = "es") -> str:
    """Return a new token of 256 random bits, e.g. `es_3fK…`."""
    return f"{prefix}_" + "".join(secrets.choice(_ALPHABET) for _ in range(_SECRET_LENGTH))


def hash_token(secret: str) -> str:
    """Return what is stored of a token: its sha256 in hexadecimal.

    A plain hash is enough for 256 random bits: there is nothing to guess.
    """
    return hashlib.sha256(secret.encode()).hexdigest()


def principal_of(grant: TokenGrant, now: datetime) -> Principal:
    """Return the caller that `grant` stands for.

    Raises:
        UnauthenticatedError: the token was revoked or has expired.
    """
    if grant.tombstone:
        raise UnauthenticatedError("the token was revoked; create another one")
    if grant.HasField("expire_time"):
        expiry = grant.expire_time.ToDatetime(tzinfo=UTC)
        if expiry <= now:
            raise UnauthenticatedError(f"the token expired at {expiry.isoformat()}")
    return Principal(grant.token_id, grant.org_id, frozenset(grant.scopes))
