"""Why a replica cannot serve, or can no more."""


class ReplicaFailedError(Exception):
    """The replica must end.

    Attributes:
        code: UPPER_SNAKE, stable.
        message: the reason, for people.
        retryable: false when another try must end the same.

    """

    def __init__(self, code: str, message: str, *, retryable: bool = True) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.retryable = retryable
