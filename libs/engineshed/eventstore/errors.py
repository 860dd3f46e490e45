"""What an event store refuses."""

from engineshed.errors import DomainError, Kind


class StreamConflictError(DomainError):
    """The stream is not at the version that the decision was made on; load it and decide again."""

    kind = Kind.CONFLICT
    reason = "STREAM_CONFLICT"


class RequestRepeatedError(DomainError):
    """An identical request has been carried out already; `response` is what it was answered."""

    kind = Kind.CONFLICT
    reason = "REQUEST_REPEATED"

    def __init__(self, message: str, *, request_id: str, response: bytes) -> None:
        super().__init__(message, request_id=request_id)
        self.response = response


class RequestIdReusedError(DomainError):
    """The request id was used before, for a request that said something else."""

    kind = Kind.INVALID
    reason = "REQUEST_ID_REUSED"


class EventTooLargeError(DomainError):
    """The event is larger than brokers carry; it was not recorded."""

    kind = Kind.INVALID
    reason = "EVENT_TOO_LARGE"


class StoreUnavailableError(DomainError):
    """The database does not answer or takes no writes now (full disk, locked, gone)."""

    kind = Kind.UNAVAILABLE
    reason = "STORE_UNAVAILABLE"


class NotLeaderError(DomainError):
    """This process does not lead, or not any more: another one may; nothing was written."""

    kind = Kind.UNAVAILABLE
    reason = "NOT_LEADER"


class UnknownEventTypeError(DomainError):
    """The log holds an event of a type that this code does not know: newer code wrote it."""

    kind = Kind.UNAVAILABLE
    reason = "UNKNOWN_EVENT_TYPE"
