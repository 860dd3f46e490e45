"""What can be wrong with a checkpoint or with a request about one."""

from engineshed.errors import DomainError, FieldError, Kind


class CheckpointInvalidError(DomainError):
    """The directory is not a checkpoint that can be served."""

    kind = Kind.INVALID
    reason = "CHECKPOINT_INVALID"

    @classmethod
    def of(cls, message: str, *, field: str = "uri", **facts: object) -> "CheckpointInvalidError":
        """Return the error for what the request's `field` names."""
        return cls(f"{field}: {message}", fields=[FieldError(field, message)], **facts)


class UriNotAllowedError(DomainError):
    """The caller may not register from there."""

    kind = Kind.INVALID
    reason = "URI_NOT_ALLOWED"

    @classmethod
    def of(cls, message: str) -> "UriNotAllowedError":
        """Return the error for the request's uri."""
        return cls(f"uri: {message}", fields=[FieldError("uri", message)])


class CheckpointNotFoundError(DomainError):
    """There is no such checkpoint that the caller could see."""

    kind = Kind.NOT_FOUND
    reason = "CHECKPOINT_NOT_FOUND"

    @classmethod
    def of(cls, checkpoint_id: str) -> "CheckpointNotFoundError":
        """Return the error for one id."""
        return cls(f"there is no checkpoint {checkpoint_id}", checkpoint_id=checkpoint_id)


class CheckpointFailedError(DomainError):
    """Its registration failed, so there are no bytes to hold."""

    kind = Kind.REFUSED
    reason = "CHECKPOINT_FAILED"


class EtagMismatchError(DomainError):
    """The checkpoint has changed since the caller read it."""

    kind = Kind.STALE
    reason = "ETAG_MISMATCH"


class PlatformCheckpointError(DomainError):
    """It came with the platform, whose templates name it."""

    kind = Kind.FORBIDDEN
    reason = "PLATFORM_CHECKPOINT"


class StillNeededError(DomainError):
    """Somebody reads the bytes, or the record is not deleted."""

    kind = Kind.REFUSED
    reason = "CHECKPOINT_STILL_NEEDED"
