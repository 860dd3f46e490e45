"""What the data plane refuses, in OpenAI's shape."""

import json
from http import HTTPStatus
from typing import Final

from engineshed.api.scheduler.v1.route_pb2 import Route

IDLE: Final = "idle"


class OpenAIError(Exception):
    """An answer other than the one that was asked for."""

    def __init__(
        self,
        status: HTTPStatus,
        code: str,
        message: str,
        param: str | None = None,
        retry_after: int | None = None,
        allow: str = "",
    ) -> None:
        """`code` is a stable name; `param` the field at fault; `retry_after` is in seconds.

        `allow` are the methods that would be served.
        """
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.param = param
        self.retry_after = retry_after
        self.allow = allow

    def body(self) -> bytes:
        """Return the JSON that OpenAI's clients understand."""
        kind = "invalid_request_error" if self.status < HTTPStatus.INTERNAL_SERVER_ERROR else ""
        error = {
            "message": self.message,
            "type": kind or "service_unavailable_error",
            "param": self.param,
            "code": self.code,
        }
        return json.dumps({"error": error}).encode()


def not_found(model: str) -> OpenAIError:
    """Return the answer for a routing key that does not exist, or is another organization's."""
    return OpenAIError(
        HTTPStatus.NOT_FOUND,
        "endpoint_not_found",
        f"there is no endpoint with the routing key {model!r}; GET /v1/models lists yours",
        "model",
    )


def not_routable(route: Route) -> OpenAIError:
    """Return the answer for an endpoint that has no replica to send a request to.

    404 where waiting does not help or it was never ready, as the client must not retry blindly;
    503 where it was ready before and will be again.
    """
    key, reason = route.routing_key, f": {route.status_reason}" if route.status_reason else ""
    match route.status:
        case "stopped" | "stopping":
            return OpenAIError(
                HTTPStatus.NOT_FOUND,
                "endpoint_stopped",
                f"the endpoint {key} is {route.status}; restart it to use it",
                "model",
            )
        case "failed":
            return OpenAIError(
                HTTPStatus.NOT_FOUND,
                "endpoint_failed",
                f"the endpoint {key} has failed{reason}",
                "model",
            )
    if not route.ever_ready:
        return OpenAIError(
            HTTPStatus.NOT_FOUND,
            "endpoint_not_ready",
            f"the endpoint {key} is {route.status} and has never been ready yet{reason}",
            "model",
        )
    return recovering(key)


def recovering(key: str) -> OpenAIError:
    """Return the answer while no replica of an endpoint that was ready can be reached."""
    return OpenAIError(
        HTTPStatus.SERVICE_UNAVAILABLE,
        "endpoint_recovering",
        f"no replica of the endpoint {key} is ready now; try again shortly",
        retry_after=2,
    )


def waking(route: Route, why: str = "") -> OpenAIError:
    """Return the answer while an endpoint that load may leave without replicas has none."""
    outlook = "is being woken" if route.status == IDLE else "has no replica yet"
    reason = why or route.status_reason
    return OpenAIError(
        HTTPStatus.SERVICE_UNAVAILABLE,
        "endpoint_waking",
        f"the endpoint {route.routing_key} is {route.status} and {outlook}"
        f"{f': {reason}' if reason else ''}; try again shortly",
        retry_after=5,
    )


def wrong_region(route: Route, base_url: str) -> OpenAIError:
    """Return the answer for an endpoint of another region; its `base_url` is "" if not known."""
    where = base_url or f"the gateway of the region {route.region}"
    return OpenAIError(
        HTTPStatus.NOT_FOUND,
        "wrong_region",
        f"the endpoint {route.routing_key} runs in the region {route.region}; use {where}",
        "model",
    )
