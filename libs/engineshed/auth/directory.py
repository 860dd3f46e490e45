"""Where tokens are looked up.

Services know each other by tokens of their own (`services.json`: name and hash). Callers' tokens
come from the catalog through the broker; a token that is not there yet is asked for once, so that
a new one works at once.
"""

import hmac
import json
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Protocol

from engineshed import ids
from engineshed.api.catalog.v1.token_service_pb2 import TokenGrant
from engineshed.auth.principal import (
    Principal,
    UnauthenticatedError,
    hash_token,
    principal_of,
)

SERVICE_PREFIX: Final = "svc_"
# How long a token that nobody knows is not asked for again, and how many of them are remembered.
UNKNOWN_SECONDS: Final = 2.0
UNKNOWN_LIMIT: Final = 10_000
# How long a caller of a stream is trusted before its token is looked at again.
RECHECK_SECONDS: Final = 1.0


class Authenticator(Protocol):
    """Turns a bearer token into a caller."""

    async def authenticate(self, secret: str) -> Principal:
        """Return the caller.

        Raises:
            UnauthenticatedError: the token is unknown, revoked or expired.
        """
        ...


class TokenWatch:
    """Looks at a caller's token again while a stream goes on, since it may be revoked meanwhile."""

    def __init__(self, authenticator: Authenticator, secret: str) -> None:
        """Watch the token `secret`, which was valid a moment ago."""
        self._authenticator = authenticator
        self._secret = secret
        self._checked = time.monotonic()

    async def check(self) -> None:
        """Return if the token is still valid; ask before each message, it seldom costs anything.

        Raises:
            UnauthenticatedError: it was revoked or has expired.

        """
        if time.monotonic() - self._checked >= RECHECK_SECONDS:
            await self._authenticator.authenticate(self._secret)
            self._checked = time.monotonic()


class Grants(Protocol):
    """The local copy of all grants, by the hash of the token."""

    def get(self, key: str) -> TokenGrant | None:
        """Return the grant, or None when the copy does not have it."""
        ...


class ServiceTokens:
    """The tokens of the platform's own services."""

    def __init__(self, hashes: Mapping[str, str]) -> None:
        self._hashes = dict(hashes)

    @classmethod
    def load(cls, path: Path) -> "ServiceTokens":
        """Read `services.json`: an object of service name and sha256 of its token."""
        return cls(json.loads(path.read_text()))

    async def authenticate(self, secret: str) -> Principal:
        """Return the service; see `Authenticator`."""
        hashed = hash_token(secret)
        for name, known in self._hashes.items():
            if hmac.compare_digest(hashed, known):
                return Principal(name, ids.PLATFORM, frozenset(), is_service=True)
        raise UnauthenticatedError("this service token is unknown")


class TokenDirectory:
    """Callers by the local copy of grants, services by their own tokens."""

    def __init__(
        self,
        services: ServiceTokens,
        grants: Grants,
        introspect: Callable[[str], Awaitable[TokenGrant | None]],
    ) -> None:
        """Use `introspect(hash)` for a token that `grants` does not have; None: nobody knows it."""
        self._services = services
        self._grants = grants
        self._introspect = introspect
        self._unknown: dict[str, float] = {}

    async def authenticate(self, secret: str) -> Principal:
        """Return the caller; see `Authenticator`."""
        if secret.startswith(SERVICE_PREFIX):
            return await self._services.authenticate(secret)
        # Looking up by a hash tells nothing about the secret through timing.
        hashed = hash_token(secret)
        grant = self._grants.get(hashed)
        if grant is None:
            grant = await self._ask(hashed)
        if grant is None:
            raise UnauthenticatedError("the token is unknown; create one with: shed token create")
        return principal_of(grant, datetime.now(UTC))

    async def _ask(self, hashed: str) -> TokenGrant | None:
        now = time.monotonic()
        if self._unknown.get(hashed, 0.0) > now:
            return None
        grant = await self._introspect(hashed)
        if grant is None:
            if len(self._unknown) >= UNKNOWN_LIMIT:
                self._unknown.clear()
            self._unknown[hashed] = now + UNKNOWN_SECONDS
        return grant
