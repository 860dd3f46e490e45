"""Errors between the domain, gRPC and HTTP: one table."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Final

import grpc
from google.protobuf import any_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2

from engineshed.errors import DomainError, FieldError, Kind

DOMAIN: Final = "engineshed"
DETAILS_KEY: Final = "grpc-status-details-bin"

# What each kind of error is in gRPC and over HTTP.
STATUS: Final[Mapping[Kind, tuple[grpc.StatusCode, HTTPStatus]]] = {
    Kind.INVALID: (grpc.StatusCode.INVALID_ARGUMENT, HTTPStatus.UNPROCESSABLE_ENTITY),
    Kind.UNAUTHENTICATED: (grpc.StatusCode.UNAUTHENTICATED, HTTPStatus.UNAUTHORIZED),
    Kind.FORBIDDEN: (grpc.StatusCode.PERMISSION_DENIED, HTTPStatus.FORBIDDEN),
    Kind.NOT_FOUND: (grpc.StatusCode.NOT_FOUND, HTTPStatus.NOT_FOUND),
    Kind.EXISTS: (grpc.StatusCode.ALREADY_EXISTS, HTTPStatus.CONFLICT),
    Kind.CONFLICT: (grpc.StatusCode.ABORTED, HTTPStatus.CONFLICT),
    Kind.STALE: (grpc.StatusCode.ABORTED, HTTPStatus.PRECONDITION_FAILED),
    Kind.REFUSED: (grpc.StatusCode.FAILED_PRECONDITION, HTTPStatus.CONFLICT),
    Kind.EXHAUSTED: (grpc.StatusCode.RESOURCE_EXHAUSTED, HTTPStatus.TOO_MANY_REQUESTS),
    Kind.UNAVAILABLE: (grpc.StatusCode.UNAVAILABLE, HTTPStatus.SERVICE_UNAVAILABLE),
}
HTTP_STATUS: Final[Mapping[Kind, HTTPStatus]] = {kind: http for kind, (_, http) in STATUS.items()}

UNREACHABLE: Final = "a service that is needed cannot be reached now; try again shortly"

# An error travels in the trailers of an answer, of which clients take no more than 8 KiB. There
# every byte that is not ASCII is three characters, and the details hold the message once more.
_MESSAGE_BYTES: Final = 1_000
_DETAIL_BYTES: Final = 300  # a fact, the name of a field, what is wrong with it
_FIELDS_BYTES: Final = 1_000

_KIND_KEY: Final = "kind"
_CODE_TO_KIND: Final = {
    code: kind for kind, (code, _) in STATUS.items() if kind is not Kind.STALE
} | {
    grpc.StatusCode.DEADLINE_EXCEEDED: Kind.UNAVAILABLE,
    grpc.StatusCode.CANCELLED: Kind.UNAVAILABLE,  # the server ended; a caller's own raises another
    grpc.StatusCode.OUT_OF_RANGE: Kind.INVALID,
}


class RemoteError(DomainError):
    """Another service's answer, with its kind, reason, fields and facts."""

    def __init__(
        self,
        kind: Kind,
        reason: str,
        message: str,
        fields: tuple[FieldError, ...],
        facts: Mapping[str, str],
    ) -> None:
        super().__init__(message, fields=fields)
        self.kind = kind
        self.reason = reason
        self.facts = dict(facts)


def to_status(error: DomainError) -> status_pb2.Status:
    """Return `error` as google.rpc.Status with ErrorInfo and, for fields, BadRequest.

    What is too long for a client is cut off: the end of a text, and all but the first fields.
    """
    code, _ = STATUS[error.kind]
    facts = {name: _short(value, _DETAIL_BYTES) for name, value in error.facts.items()}
    info = error_details_pb2.ErrorInfo(
        reason=error.reason, domain=DOMAIN, metadata={**facts, _KIND_KEY: error.kind.name}
    )
    details = [_any(info)]
    if error.fields:
        details.append(_any(_bad_request(error.fields)))
    return status_pb2.Status(
        code=code_pb2.Code.Value(code.name),
        message=_short(error.message, _MESSAGE_BYTES),
        details=details,
    )


def _bad_request(fields: Sequence[FieldError]) -> error_details_pb2.BadRequest:
    bad = error_details_pb2.BadRequest()
    for item in fields:
        if bad.ByteSize() > _FIELDS_BYTES:
            break
        bad.field_violations.add(
            field=_short(item.field, _DETAIL_BYTES),
            description=_short(item.message, _DETAIL_BYTES),
        )
    return bad


def _short(text: str, most: int) -> str:
    """Return `text`, without its end if it has more bytes; what is no Unicode becomes `?`."""
    data = text.encode(errors="replace")
    return data.decode() if len(data) <= most else data[:most].decode(errors="ignore") + "…"


def error_from(error: grpc.aio.AioRpcError) -> RemoteError | None:
    """Return what a failed call says, or None when it says nothing a caller can act upon.

    A server that cannot be reached, does not answer in time, or ends before it does is
    `Kind.UNAVAILABLE`.
    """
    kind: Kind | None = _CODE_TO_KIND.get(error.code())
    if kind is None:
        return None
    info, fields = _details(error)
    if info is None:
        # gRPC's own words name addresses, which are none of a caller's business.
        text = UNREACHABLE if kind is Kind.UNAVAILABLE else error.details() or ""
        return RemoteError(kind, error.code().name, text, (), {})
    facts = dict(info.metadata)
    named = facts.pop(_KIND_KEY, "")
    kind = Kind[named] if named in Kind.__members__ else kind
    return RemoteError(kind, info.reason, error.details() or "", fields, facts)


def _details(
    error: grpc.aio.AioRpcError,
) -> tuple[error_details_pb2.ErrorInfo | None, tuple[FieldError, ...]]:
    info: error_details_pb2.ErrorInfo | None = None
    fields: tuple[FieldError, ...] = ()
    for key, value in error.trailing_metadata() or ():
        if key != DETAILS_KEY or not isinstance(value, bytes):
            continue
        for detail in status_pb2.Status.FromString(value).details:
            if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
                info = error_details_pb2.ErrorInfo()
                detail.Unpack(info)
            elif detail.Is(error_details_pb2.BadRequest.DESCRIPTOR):
                bad = error_details_pb2.BadRequest()
                detail.Unpack(bad)
                fields = tuple(FieldError(v.field, v.description) for v in bad.field_violations)
    return info, fields


def _any(message: error_details_pb2.ErrorInfo | error_details_pb2.BadRequest) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed
