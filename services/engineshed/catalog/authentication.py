"""Who calls the catalog: services by their own tokens, everybody else by its own store."""

from engineshed.auth import (
    Principal,
    ServiceTokens,
    UnauthenticatedError,
    hash_token,
    principal_of,
)
from engineshed.auth.directory import SERVICE_PREFIX
from engineshed.catalog.store import CatalogStore
from engineshed.runtime import utc_now


class StoreAuthenticator:
    """Looks tokens up where they are kept, so that what was revoked ends at once."""

    def __init__(self, services: ServiceTokens, store: CatalogStore) -> None:
        self._services = services
        self._store = store

    async def authenticate(self, secret: str) -> Principal:
        """Return the caller.

        Raises:
            UnauthenticatedError: the token is unknown, revoked or expired.

        """
        if secret.startswith(SERVICE_PREFIX):
            return await self._services.authenticate(secret)
        grant = await self._store.grant(hash_token(secret))
        if grant is None:
            raise UnauthenticatedError("the token is unknown; create one with: shed token create")
        return principal_of(grant, utc_now())
