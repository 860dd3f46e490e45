"""Token: what a caller may do, and until when. Its secret is none of the domain's business."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final, TypeAlias, assert_never

from engineshed.api.catalog.v1.events_pb2 import TokenCreated, TokenRevoked
from engineshed.errors import DomainError, InvalidFieldError, Kind

ADMIN: Final = "admin"
OPERATOR: Final = "operator"


class TokenNotFoundError(DomainError):
    """There is no such token in the caller's organization."""

    kind = Kind.NOT_FOUND
    reason = "TOKEN_NOT_FOUND"

    @classmethod
    def of(cls, token_id: str) -> "TokenNotFoundError":
        """Return the error for one id."""
        return cls(f"there is no token {token_id}", token_id=token_id)


class TokenAlreadyCreatedError(DomainError):
    """The request was carried out before, and the secret cannot be shown again."""

    kind = Kind.EXISTS
    reason = "TOKEN_ALREADY_CREATED"


class ScopeNotHeldError(DomainError):
    """A caller cannot give what it does not have."""

    kind = Kind.FORBIDDEN
    reason = "SCOPE_NOT_HELD"


@dataclass(frozen=True, slots=True)
class Giver:
    """Who makes or ends a token."""

    org_id: str
    scopes: frozenset[str]

    def has(self, scope: str) -> bool:
        """Tell whether the giver has `scope`; admin has all of its organization's."""
        return scope in self.scopes or (scope != OPERATOR and ADMIN in self.scopes)


@dataclass(frozen=True, slots=True)
class Create:
    """Make a token."""

    token_id: str
    org_id: str  # which exists
    name: str
    scopes: tuple[str, ...]
    expire_time: datetime | None
    giver: Giver
    now: datetime


@dataclass(frozen=True, slots=True)
class Revoke:
    """End a token."""

    token_id: str
    giver: Giver


Command: TypeAlias = Create | Revoke
Event: TypeAlias = TokenCreated | TokenRevoked


@dataclass(frozen=True, slots=True)
class Token:
    """Only what `decide` needs to answer."""

    org_id: str
    is_operators: bool
    revoked: bool = False


def stream_of(token_id: str) -> str:
    """Return the name of a token's stream."""
    return f"token/{token_id}"


def decide(state: Token | None, command: Command) -> list[Event]:
    """Return what `command` makes true; an empty list means it already was."""
    match command:
        case Create():
            return _create(command)
        case Revoke():
            return _revoke(state, command)
        case _:
            assert_never(command)


def evolve(state: Token | None, event: Event) -> Token:
    """Fold one event that has happened into the state; never refuses."""
    match event:
        case TokenCreated():
            return Token(event.org_id, OPERATOR in event.scopes)
        case TokenRevoked():
            assert state is not None, "a stream starts with TokenCreated"
            return replace(state, revoked=True)
        case _:
            assert_never(event)


def _create(command: Create) -> list[Event]:
    giver = command.giver
    if command.org_id != giver.org_id and not giver.has(OPERATOR):
        raise ScopeNotHeldError(
            "org_id: only operators make tokens for other organizations; leave it out",
            scope=OPERATOR,
        )
    for scope in command.scopes:
        if not giver.has(scope):
            held = ", ".join(sorted(giver.scopes))
            raise ScopeNotHeldError(
                f"scopes: {scope} cannot be given by a token that has only: {held}", scope=scope
            )
    event = TokenCreated(
        token_id=command.token_id,
        org_id=command.org_id,
        name=command.name,
        scopes=sorted(command.scopes),
    )
    if command.expire_time is not None:
        if command.expire_time <= command.now:
            raise InvalidFieldError.of(
                "expire_time",
                f"{command.expire_time.astimezone(UTC).isoformat()} is past; name a later moment",
            )
        event.expire_time.FromDatetime(command.expire_time)
    return [event]


def _revoke(state: Token | None, command: Revoke) -> list[Event]:
    giver = command.giver
    if state is None or (state.org_id != giver.org_id and not giver.has(OPERATOR)):
        raise TokenNotFoundError.of(command.token_id)
    if state.is_operators and not giver.has(OPERATOR):
        raise ScopeNotHeldError(
            f"token {command.token_id} is an operator's, which only operators revoke",
            scope=OPERATOR,
        )
    return [] if state.revoked else [TokenRevoked(token_id=command.token_id)]
