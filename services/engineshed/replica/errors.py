"""Errors as callers of the OpenAI API know them."""

import json
from typing import Final

OVERLOADED: Final = "overloaded"
INVALID: Final = "invalid_request_error"
UNAVAILABLE: Final = "service_unavailable_error"


class ApiError(Exception):
    """What a caller is told instead of an answer.

    Attributes:
        status: of HTTP, while there is still one to send.
        message: what is wrong and what would be right.
        code: a stable name for programs.
        type: the class of errors, as OpenAI names them.
        param: the parameter that is wrong, e.g. `messages[0].content`.
        retry_after: seconds after which another try may succeed.

    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str,
        type_: str = INVALID,
        param: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.type = type_
        self.param = param
        self.retry_after = retry_after

    def body(self) -> bytes:
        """Return it as JSON."""
        error = {
            "message": self.message,
            "type": self.type,
            "param": self.param,
            "code": self.code,
        }
        return json.dumps({"error": error}, ensure_ascii=False).encode()


def invalid(message: str, *, param: str | None, code: str = "invalid_value") -> ApiError:
    """Return the error for a request that must be changed."""
    return ApiError(400, message, code=code, param=param)


def unsupported(param: str, message: str) -> ApiError:
    """Return the error for a parameter that cannot be honoured."""
    return invalid(message, param=param, code="unsupported_parameter")


def unavailable(message: str, code: str) -> ApiError:
    """Return the error for a request that may succeed later, unchanged."""
    return ApiError(503, message, code=code, type_=UNAVAILABLE, retry_after=1)


def engine_failed(message: str) -> ApiError:
    """Return the error for an answer that the engine could not finish."""
    return ApiError(500, message, code="engine_error", type_="server_error")
