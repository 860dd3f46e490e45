"""Errors as RFC 9457 problems."""

import re
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any, Final

import grpc
import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.routing import Match

from engineshed.bus import BusUnavailableError
from engineshed.errors import DomainError, FieldError
from engineshed.gateway.controlplane.clients import request_id_of
from engineshed.rpc import HTTP_STATUS, error_from

_METHODS: Final = ("GET", "POST", "PATCH", "DELETE")
RETRY_AFTER: Final = {"retry-after": "2"}

# Fields that are called otherwise in the services' messages.
_RENAMED: Final = {"endpoint.": "", "expire_time": "expires_at"}
_BEGINS_RENAMED: Final = re.compile(r"(^|; )(endpoint\.|expire_time\b)")

log: Final[structlog.stdlib.BoundLogger] = structlog.get_logger()


def install(app: FastAPI) -> None:
    """Make `app` answer every error as a problem."""
    app.add_exception_handler(DomainError, _domain)
    app.add_exception_handler(grpc.aio.AioRpcError, _remote)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(BusUnavailableError, _bus)


def problem(
    request: Request,
    status: HTTPStatus,
    reason: str,
    detail: str,
    fields: Sequence[FieldError] = (),
    facts: dict[str, str] | None = None,
    headers: dict[str, str] | None = None,
) -> JSONResponse:
    """Return a problem; `reason` is its stable name, in upper case."""
    body = {
        **(facts or {}),
        "type": f"/problems/{reason.lower().replace('_', '-')}",
        "title": status.phrase,
        "status": int(status),
        "detail": detail,
        "instance": request.url.path,
        "reason": reason,
        "request_id": request_id_of(request),
        "errors": [{"field": item.field, "message": item.message} for item in fields],
    }
    extra = {"x-request-id": request_id_of(request), **(headers or {})}
    if status is HTTPStatus.UNAUTHORIZED:
        extra["www-authenticate"] = "Bearer"
    if status is HTTPStatus.SERVICE_UNAVAILABLE:
        extra |= RETRY_AFTER
    return JSONResponse(
        body, status_code=status, headers=extra, media_type="application/problem+json"
    )


async def _domain(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, DomainError)
    status = HTTP_STATUS[error.kind]
    fields = [FieldError(_as_here(item.field), item.message) for item in error.fields]
    detail = _as_here(error.message)
    return problem(request, status, error.reason, detail, fields, error.facts)


async def _remote(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, grpc.aio.AioRpcError)
    told = error_from(error)
    return await (bug(request, error) if told is None else _domain(request, told))


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    items = error.errors()
    if items[0]["loc"][0] == "path":  # no object's id looks like that
        return _unknown(request, str(items[0]["loc"][1]))
    if any(item["type"] == "json_invalid" for item in items):
        why = items[0].get("ctx", {}).get("error", "")
        detail = f"the body is not valid JSON: {why}"
        return problem(request, HTTPStatus.BAD_REQUEST, "MALFORMED_JSON", detail)
    content_type = request.headers.get("content-type", "")
    if items[0]["loc"][0] == "body" and "json" not in content_type:
        detail = f"the content type is {content_type or 'missing'}; send application/json"
        return problem(request, HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "UNSUPPORTED_MEDIA_TYPE", detail)
    fields = [FieldError(_path(item["loc"]), _message(item)) for item in items]
    detail = "; ".join(f"{item.field}: {item.message}" for item in fields)
    return problem(request, HTTPStatus.UNPROCESSABLE_ENTITY, "INVALID_FIELD", detail, fields)


def _unknown(request: Request, parameter: str) -> JSONResponse:
    kind = "organization" if parameter == "org_id" else parameter.removesuffix("_id")
    detail = f"there is no {kind} {request.path_params[parameter]!r}"
    return problem(request, HTTPStatus.NOT_FOUND, f"{kind.upper()}_NOT_FOUND", detail)


async def _http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    status = HTTPStatus(error.status_code)
    detail = f"{request.method} {request.url.path}: {error.detail}"
    headers = {name.lower(): value for name, value in (error.headers or {}).items()}
    if status is HTTPStatus.METHOD_NOT_ALLOWED:
        headers["allow"] = ", ".join(sorted(_allowed(request)))
    return problem(request, status, status.name, detail, headers=headers)


def _allowed(request: Request) -> set[str]:
    """Return the methods of all routes to this path; the framework knows the first one's only."""
    found = {method for method in _METHODS if _is_served(request, method)}
    return found | ({"HEAD"} if "GET" in found else set())


def _is_served(request: Request, method: str) -> bool:
    scope = {**request.scope, "method": method}
    return any(route.matches(scope)[0] is Match.FULL for route in request.app.routes)


async def _bus(request: Request, error: Exception) -> JSONResponse:
    log.warning("broker unavailable", error=repr(error))
    detail = "the message broker cannot be reached; try again shortly"
    return problem(request, HTTPStatus.SERVICE_UNAVAILABLE, "BROKER_UNAVAILABLE", detail)


async def bug(request: Request, error: Exception) -> JSONResponse:
    """Return the problem for an error that nobody expected, and log it."""
    log.error("request failed", request_id=request_id_of(request), exc_info=error)
    detail = "internal error; quote the request id when you report it"
    return problem(request, HTTPStatus.INTERNAL_SERVER_ERROR, "INTERNAL", detail)


def _path(location: Sequence[Any]) -> str:
    """Return where in the request an error is, without FastAPI's own first part."""
    return ".".join(str(part) for part in location[1:]) or str(location[0])


def _message(item: dict[str, Any]) -> str:
    if item["type"] == "extra_forbidden":
        return "there is no such field"
    message = str(item["msg"]).removeprefix("Value error, ")
    if isinstance(item["input"], int | float):
        return f"{message}; it is {item['input']}"
    return message


def _as_here(text: str) -> str:
    """Return a field, or what is said of fields, with the names of the REST API."""
    return _BEGINS_RENAMED.sub(lambda found: found[1] + _RENAMED[found[2]], text)
