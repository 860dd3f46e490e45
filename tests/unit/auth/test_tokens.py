"""Tokens, grants and what they let a caller do."""

from datetime import UTC, datetime, timedelta

import pytest

from engineshed.api.catalog.v1.token_service_pb2 import TokenGrant
from engineshed.auth import (
    Principal,
    ServiceTokens,
    TokenDirectory,
    UnauthenticatedError,
    hash_token,
    new_secret,
    principal_of,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Copy(dict[str, TokenGrant]):
    """The local copy of grants."""


def directory(copy: Copy, answers: dict[str, TokenGrant], asked: list[str]) -> TokenDirectory:
    async def introspect(hashed: str) -> TokenGrant | None:
        asked.append(hashed)
        return answers.get(hashed)

    return TokenDirectory(ServiceTokens({"catalog": hash_token("svc_c")}), copy, introspect)


def test_secrets_never_repeat_and_carry_256_bits() -> None:
    assert new_secret() != new_secret()
    assert len(new_secret()) == len("es_") + 43


def test_admin_is_not_operator() -> None:
    admin = Principal("tok_1", "org_1", frozenset({"admin"}))
    assert admin.may("endpoints:write")
    assert not admin.may("operator")
    assert not admin.sees_all


def test_a_revoked_token_is_refused() -> None:
    with pytest.raises(UnauthenticatedError, match="revoked"):
        principal_of(TokenGrant(token_id="tok_1", tombstone=True), NOW)


def test_a_token_ends_at_its_expiry() -> None:
    grant = TokenGrant(token_id="tok_1", org_id="org_1")
    grant.expire_time.FromDatetime(NOW)

    with pytest.raises(UnauthenticatedError, match="expired"):
        principal_of(grant, NOW)
    assert principal_of(grant, NOW - timedelta(seconds=1)).org_id == "org_1"


async def test_a_token_in_the_copy_is_not_asked_for() -> None:
    asked: list[str] = []
    copy = Copy({hash_token("es_a"): TokenGrant(token_id="tok_1", org_id="org_1")})

    principal = await directory(copy, {}, asked).authenticate("es_a")

    assert principal.name == "tok_1"
    assert asked == []


async def test_a_token_that_is_not_there_yet_is_asked_for_and_works_at_once() -> None:
    asked: list[str] = []
    known = {hash_token("es_new"): TokenGrant(token_id="tok_2", org_id="org_1")}

    principal = await directory(Copy(), known, asked).authenticate("es_new")

    assert principal.name == "tok_2"


async def test_an_unknown_token_is_asked_for_once_in_a_while_only() -> None:
    asked: list[str] = []
    tokens = directory(Copy(), {}, asked)

    for _ in range(3):
        with pytest.raises(UnauthenticatedError, match="unknown"):
            await tokens.authenticate("es_wrong")

    assert len(asked) == 1


async def test_services_are_known_by_their_own_tokens_only() -> None:
    tokens = directory(Copy(), {}, [])
    assert (await tokens.authenticate("svc_c")).is_service
    with pytest.raises(UnauthenticatedError):
        await tokens.authenticate("svc_other")
