"""Where the gateway looks tokens up: its copy of the bucket, then the catalog."""

import time
from collections.abc import Awaitable, Callable
from typing import Final

import grpc

from engineshed.api.catalog.v1.token_service_pb2 import IntrospectTokenRequest, TokenGrant
from engineshed.api.catalog.v1.token_service_pb2_grpc import TokenServiceStub
from engineshed.bus import KeyValueWatcher
from engineshed.errors import DomainError, Kind
from engineshed.rpc import error_from

INTROSPECT_SECONDS: Final = 5.0


class TokensUnavailableError(DomainError):
    """A token cannot be checked now."""

    kind = Kind.UNAVAILABLE
    reason = "TOKENS_UNAVAILABLE"


class FreshGrants:
    """The copy of all grants, as long as it is fresh enough to be trusted."""

    def __init__(self, watcher: KeyValueWatcher[TokenGrant], staleness_seconds: float) -> None:
        self._watcher = watcher
        self._staleness = staleness_seconds
        self._started = time.monotonic()

    def get(self, key: str) -> TokenGrant | None:
        """Return the grant, or None when the copy lacks it or is too old."""
        confirmed = self._watcher.confirmed_at or self._started
        if time.monotonic() - confirmed > self._staleness:
            return None
        return self._watcher.entries.get(key)


def introspection(channel: grpc.aio.Channel) -> Callable[[str], Awaitable[TokenGrant | None]]:
    """Return a function that asks the catalog for a token by its hash."""
    stub = TokenServiceStub(channel)

    async def introspect(hashed: str) -> TokenGrant | None:
        try:
            reply = await stub.IntrospectToken(
                IntrospectTokenRequest(secret_sha256=hashed), timeout=INTROSPECT_SECONDS
            )
        except grpc.aio.AioRpcError as error:
            told = error_from(error)
            if told is not None and told.kind is Kind.NOT_FOUND:
                return None
            raise TokensUnavailableError(
                "this token is not known here yet, and the catalog cannot be asked now"
            ) from error
        grant: TokenGrant = reply.grant
        return grant

    return introspect
