"""The kinds of errors that our models answer with."""

from enum import StrEnum


class Refusal(StrEnum):
    """What kind of error a model answers with; the names are those of gRPC's statuses."""

    INVALID_ARGUMENT = "INVALID_ARGUMENT"
    """The request cannot be honoured, now or later."""
    UNAVAILABLE = "UNAVAILABLE"
    """The model has no room for it now."""
    INTERNAL = "INTERNAL"
    """The model failed, or it is not one of ours and does not say."""

    def text(self, message: str) -> str:
        """Return the text of an error of this kind."""
        return f"{self}: {message}"
