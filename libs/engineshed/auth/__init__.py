"""Who calls, and what they may do: tokens, principals and where they are looked up."""

from engineshed.auth.directory import Authenticator, ServiceTokens, TokenDirectory, TokenWatch
from engineshed.auth.principal import (
    OPERATOR,
    SCOPES,
    ForbiddenError,
    Principal,
    UnauthenticatedError,
    hash_token,
    new_secret,
    principal_of,
)

__all__ = [
    "OPERATOR",
    "SCOPES",
    "Authenticator",
    "ForbiddenError",
    "Principal",
    "ServiceTokens",
    "TokenDirectory",
    "TokenWatch",
    "UnauthenticatedError",
    "hash_token",
    "new_secret",
    "principal_of",
]
