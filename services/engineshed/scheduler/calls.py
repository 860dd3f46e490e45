"""What the servicers do the same way: who asks, whose it is, and answering a repeated request."""

import binascii
import hashlib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from datetime import UTC, datetime
from typing import Protocol

from google.protobuf.timestamp_pb2 import Timestamp

from engineshed.errors import InvalidFieldError
from engineshed.eventstore import Idempotency, Metadata
from engineshed.rpc import Call

DEFAULT_PAGE_SIZE = 100


class Repeatable(Protocol):
    """A request that may be sent again under the same id."""

    request_id: str

    def SerializeToString(self, *, deterministic: bool = ...) -> bytes:  # noqa: N802 - protobuf's name
        """Return the message as bytes."""


def by_caller(call: Call, org_id: str) -> Metadata:
    """Return the metadata of events that a call causes on an object of `org_id`."""
    return Metadata(call.principal.name, org_id, call.request_id, call.traceparent)


def once(call: Call, method: str, request: Repeatable) -> Idempotency | None:
    """Return what makes a repeated call recognizable; None when it brings no request_id."""
    if not request.request_id:
        return None
    return Idempotency(
        org_id=call.principal.org_id,
        actor=call.principal.name,
        method=method,
        request_id=request.request_id,
        request_hash=hashlib.sha256(request.SerializeToString(deterministic=True)).digest(),
    )


def moment_of(stamp: Timestamp, field: str) -> datetime:
    """Return the moment in a request's field.

    Raises:
        InvalidFieldError: it is beyond what a calendar has.

    """
    try:
        return stamp.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError) as error:
        raise InvalidFieldError.of(
            field, "it is not a moment between the years 1 and 9999"
        ) from error


def page_token(key: str) -> str:
    """Return the token of the page that begins behind `key`."""
    return urlsafe_b64encode(key.encode()).decode()


def key_of(token: str) -> str:
    """Return the key behind which a page begins; "" for the first page.

    Raises:
        InvalidFieldError: the token is none that was given out.

    """
    try:
        return urlsafe_b64decode(token).decode()
    except (binascii.Error, ValueError) as error:
        raise invalid_page_token() from error


def invalid_page_token() -> InvalidFieldError:
    """Return what is said to somebody who made a page token up."""
    return InvalidFieldError.of(
        "page_token", "it is not the next_page_token of a page of this list; leave it out to begin"
    )
