"""Who may send inference requests."""

from http import HTTPStatus

from engineshed.auth import Authenticator, Principal, UnauthenticatedError
from engineshed.errors import DomainError
from engineshed.gateway.dataplane.errors import OpenAIError
from engineshed.gateway.dataplane.exchange import Exchange
from engineshed.gateway.dataplane.http import header


class Admission:
    """Admits requests by their bearer tokens."""

    def __init__(self, authenticator: Authenticator) -> None:
        self._authenticator = authenticator

    async def admit(self, exchange: Exchange) -> Principal:
        """Return who sends the request.

        Raises:
            OpenAIError: nobody who may, or that cannot be found out now.
        """
        secret = secret_of(exchange)
        if not secret:
            raise OpenAIError(
                HTTPStatus.UNAUTHORIZED,
                "invalid_api_key",
                "no API key; send the header: Authorization: Bearer <token>",
            )
        try:
            principal = await self._authenticator.authenticate(secret)
        except UnauthenticatedError as error:
            raise OpenAIError(HTTPStatus.UNAUTHORIZED, "invalid_api_key", error.message) from error
        except DomainError as error:
            raise OpenAIError(
                HTTPStatus.SERVICE_UNAVAILABLE,
                "authentication_unavailable",
                "the API key cannot be checked now; try again shortly",
                retry_after=2,
            ) from error
        exchange.org_id = principal.org_id
        if not principal.may("inference"):
            raise OpenAIError(
                HTTPStatus.FORBIDDEN,
                "insufficient_scope",
                "this API key lacks the scope inference",
            )
        return principal


def secret_of(exchange: Exchange) -> str:
    """Return the bearer token of a request, or an empty string."""
    scheme, _, secret = header(exchange.scope, b"authorization").partition(" ")
    return secret.strip() if scheme.lower() == "bearer" else ""
