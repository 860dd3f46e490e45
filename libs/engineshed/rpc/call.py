"""The call that is being served: who called, under which request id."""

import re
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final

from ulid import ULID

from engineshed.auth.principal import Principal

REQUEST_ID: Final = "x-request-id"
AUTHORIZATION: Final = "authorization"

_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._:-]{1,128}")


@dataclass(frozen=True, slots=True)
class Call:
    """What a servicer may know of the call beside its request."""

    principal: Principal
    request_id: str
    traceparent: str = ""
    peer: str = ""
    certified: frozenset[str] = frozenset()  # what the caller's certificate names


_CURRENT: ContextVar[Call] = ContextVar("engineshed_call")


def current_call() -> Call:
    """Return the call that is being served; only below a servicer's method."""
    return _CURRENT.get()


def request_id_of_context() -> str:
    """Return the request id of the call being served, or an empty string outside of one."""
    call = _CURRENT.get(None)
    return call.request_id if call else ""


def set_current_call(call: Call) -> None:
    """Make `call` the current one of this task."""
    _CURRENT.set(call)


def clean_request_id(given: str) -> str:
    """Return the caller's request id if it is safe to log, else a new one."""
    return given if _REQUEST_ID.fullmatch(given) else str(ULID())


def caller_metadata(secret: str, request_id: str) -> tuple[tuple[str, str], ...]:
    """Return the metadata that makes a call in the name of the holder of `secret`."""
    return ((AUTHORIZATION, f"Bearer {secret}"), (REQUEST_ID, request_id))
