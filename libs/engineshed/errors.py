"""What can go wrong in the domain, and what the caller can do about it.

The domain raises these; only the edges know gRPC and HTTP (`engineshed.rpc.status`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto


class Kind(Enum):
    """What the caller can do about it."""

    INVALID = auto()  # fix the request
    UNAUTHENTICATED = auto()  # bring a valid token
    FORBIDDEN = auto()  # bring a token that may
    NOT_FOUND = auto()  # name something that exists
    EXISTS = auto()  # it is there already
    CONFLICT = auto()  # read again, then retry
    STALE = auto()  # the etag is no longer true: read again, then decide
    REFUSED = auto()  # change the system's state first
    EXHAUSTED = auto()  # wait until something is free
    UNAVAILABLE = auto()  # retry later, unchanged


@dataclass(frozen=True, slots=True)
class FieldError:
    """One field of a request that cannot be accepted."""

    field: str  # path within the request, e.g. "scaling.min_replicas"
    message: str  # what is wrong and what would be right


class DomainError(Exception):
    """An error that a caller caused or must know about; anything else is a bug.

    Subclasses set `kind` and `reason`. `facts` are strings that clients may rely on.
    """

    kind: Kind
    reason: str  # UPPER_SNAKE, stable

    def __init__(self, message: str, *, fields: Sequence[FieldError] = (), **facts: object) -> None:
        super().__init__(message)
        self.message = message
        self.fields = tuple(fields)
        self.facts = {name: str(value) for name, value in facts.items()}


class InvalidFieldError(DomainError):
    """A field of the request is well-formed but not acceptable."""

    kind = Kind.INVALID
    reason = "INVALID_FIELD"

    @classmethod
    def of(cls, field: str, message: str) -> "InvalidFieldError":
        """Return the error for one field."""
        return cls(f"{field}: {message}", fields=[FieldError(field, message)])
