"""What the bus refuses or cannot do now."""

from engineshed.errors import DomainError, Kind


class BusUnavailableError(DomainError):
    """NATS is not reachable or did not answer in time; nothing is known to be stored."""

    kind = Kind.UNAVAILABLE
    reason = "BUS_UNAVAILABLE"


class StaleEntryError(DomainError):
    """The bucket holds a later entry: another process leads now, or this one saw old state."""

    kind = Kind.STALE
    reason = "STALE_ENTRY"


class UnreadableEventError(DomainError):
    """A message in the event stream is no CloudEvent of ours, or of a type not known here."""

    kind = Kind.UNAVAILABLE
    reason = "UNREADABLE_EVENT"
