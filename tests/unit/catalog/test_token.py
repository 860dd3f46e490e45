"""Who may give which rights to whom."""

from datetime import UTC, datetime, timedelta
from functools import reduce

import pytest

from engineshed.api.catalog.v1.events_pb2 import TokenCreated
from engineshed.catalog.domain.token import (
    Create,
    Giver,
    Revoke,
    ScopeNotHeldError,
    Token,
    TokenNotFoundError,
    decide,
    evolve,
)
from engineshed.errors import InvalidFieldError

TOKEN = "tok_01J00000000000000000000000"
ORG = "org_01J00000000000000000000000"
OTHER = "org_01J00000000000000000000001"
NOW = datetime(2026, 1, 1, tzinfo=UTC)
ADMIN = Giver(ORG, frozenset({"admin"}))
OPERATOR = Giver(ORG, frozenset({"admin", "operator"}))


def create(
    giver: Giver, *scopes: str, org_id: str = ORG, expire_time: datetime | None = None
) -> Create:
    return Create(TOKEN, org_id, "ci", scopes, expire_time, giver, NOW)


def created(org_id: str = ORG, scope: str = "inference") -> Token:
    return reduce(evolve, decide(None, create(OPERATOR, scope, org_id=org_id)), None)  # type: ignore[return-value]  # there is one event


def test_an_admin_gives_every_right_of_its_organization() -> None:
    (event,) = decide(None, create(ADMIN, "inference", "artifacts:write", "admin"))

    assert isinstance(event, TokenCreated)
    assert list(event.scopes) == ["admin", "artifacts:write", "inference"]
    assert not event.HasField("expire_time")


def test_only_operators_make_operators() -> None:
    with pytest.raises(ScopeNotHeldError, match="operator"):
        decide(None, create(ADMIN, "operator"))
    assert len(decide(None, create(OPERATOR, "operator"))) == 1


def test_a_right_that_is_not_held_cannot_be_given() -> None:
    reader = Giver(ORG, frozenset({"endpoints:read"}))

    with pytest.raises(ScopeNotHeldError, match="endpoints:write"):
        decide(None, create(reader, "endpoints:read", "endpoints:write"))


def test_only_operators_make_tokens_for_other_organizations() -> None:
    with pytest.raises(ScopeNotHeldError, match="org_id"):
        decide(None, create(ADMIN, "inference", org_id=OTHER))
    (event,) = decide(None, create(OPERATOR, "inference", org_id=OTHER))
    assert isinstance(event, TokenCreated)
    assert event.org_id == OTHER


def test_a_token_that_would_be_over_already_is_refused() -> None:
    with pytest.raises(InvalidFieldError, match="expire_time"):
        decide(None, create(ADMIN, "inference", expire_time=NOW))
    (event,) = decide(None, create(ADMIN, "inference", expire_time=NOW + timedelta(seconds=1)))
    assert isinstance(event, TokenCreated)
    assert event.expire_time.ToDatetime(tzinfo=UTC) == NOW + timedelta(seconds=1)


def test_revoking_again_changes_nothing() -> None:
    state = created()
    (event,) = decide(state, Revoke(TOKEN, ADMIN))

    assert decide(evolve(state, event), Revoke(TOKEN, ADMIN)) == []


def test_a_strangers_token_is_not_found() -> None:
    with pytest.raises(TokenNotFoundError):
        decide(created(OTHER), Revoke(TOKEN, ADMIN))
    with pytest.raises(TokenNotFoundError):
        decide(None, Revoke(TOKEN, ADMIN))


def test_only_operators_end_an_operators_token() -> None:
    state = created(scope="operator")

    with pytest.raises(ScopeNotHeldError, match="only operators revoke"):
        decide(state, Revoke(TOKEN, ADMIN))
    assert len(decide(state, Revoke(TOKEN, OPERATOR))) == 1


def test_an_operator_ends_any_token() -> None:
    assert len(decide(created(OTHER), Revoke(TOKEN, OPERATOR))) == 1
