"""What no method should do for itself: the one interceptor of every server.

It finds out who calls, refuses what the access table does not allow, validates the request, gives
errors their status, and measures.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Set
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import grpc
import structlog
from google.protobuf.message import Message
from structlog.contextvars import bind_contextvars

from engineshed.auth import (
    Authenticator,
    ForbiddenError,
    Principal,
    TokenWatch,
    UnauthenticatedError,
)
from engineshed.errors import DomainError
from engineshed.rpc.call import (
    AUTHORIZATION,
    REQUEST_ID,
    Call,
    clean_request_id,
    set_current_call,
)
from engineshed.rpc.metrics import RpcMetrics
from engineshed.rpc.status import DETAILS_KEY, STATUS, error_from, to_status
from engineshed.rpc.tls import names_of_peer
from engineshed.rpc.validation import RequestValidator
from engineshed.runtime.tls import part_name
from engineshed.telemetry.tracing import TRACEPARENT, start_span

_OPEN: Final = "/grpc.health.v1.Health/"
_REFLECTION: Final = "/grpc.reflection."

# What of a request stands in the log lines of its call, and as what.
_LOGGED: Final = {
    "endpoint_id": "endpoint",
    "replica_id": "replica",
    "checkpoint_id": "checkpoint",
    "node_id": "node",
}

# Statuses that are a server's fault, not its caller's.
_FAILED: Final = frozenset({"INTERNAL", "UNAVAILABLE", "UNKNOWN"})

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]
# A method's handler is generic over its messages, which the gate never looks into.
Handler: TypeAlias = Any

log: Final[structlog.stdlib.BoundLogger] = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Access:
    """Who may call a method."""

    scope: str | None  # what a token needs; None: no token may call it
    services: frozenset[str] = frozenset()  # which services may call it too


class Gate(grpc.aio.ServerInterceptor):
    """The interceptor of a server; every call goes through it."""

    def __init__(
        self,
        authenticator: Authenticator,
        access: Mapping[str, Access],
        refusal: Callable[[], DomainError | None],
        metrics: RpcMetrics,
        *,
        certified: bool,
    ) -> None:
        self._certified = certified
        self._authenticator = authenticator
        self._access = access
        self._refusal = refusal
        self._metrics = metrics
        self._validator = RequestValidator()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        """Return the handler of a call, behind all that comes before and after it."""
        method = str(handler_call_details.method)
        if not method.startswith(_OPEN) and (refusal := self._refusal()):
            return self._refusing(method, refusal)
        handler = await continuation(handler_call_details)
        if handler is None or method.startswith(_OPEN):
            return handler
        if handler.response_streaming:
            return self._streaming(method, handler)
        return self._unary(method, handler)

    def _unary(self, method: str, handler: Handler) -> Handler:
        behavior = handler.unary_unary

        async def serve(request: Message, context: Context) -> Message:
            async with _Answer(method, context, self._metrics) as answer:
                await self._admit(method, answer, context)
                await self._validator.check(request)
                _note_objects(request)
                reply: Message = await behavior(request, context)
                return reply
            raise AssertionError("an answer that failed has aborted the call")

        return grpc.unary_unary_rpc_method_handler(
            serve, handler.request_deserializer, handler.response_serializer
        )

    def _streaming(self, method: str, handler: Handler) -> Handler:
        behavior = handler.stream_stream if handler.request_streaming else handler.unary_stream

        async def serve(request: Any, context: Context) -> AsyncIterator[Message]:  # noqa: ANN401 - a message or an iterator of them
            async with _Answer(method, context, self._metrics) as answer:
                watch = TokenWatch(self._authenticator, await self._admit(method, answer, context))
                if handler.request_streaming:
                    request = self._validated(request)
                else:
                    await self._validator.check(request)
                    _note_objects(request)
                async for reply in behavior(request, context):
                    await watch.check()
                    yield reply

        make = (
            grpc.stream_stream_rpc_method_handler
            if handler.request_streaming
            else grpc.unary_stream_rpc_method_handler
        )
        return make(serve, handler.request_deserializer, handler.response_serializer)

    def _refusing(self, method: str, refusal: DomainError) -> Handler:
        async def refuse(_: object, context: Context) -> AsyncIterator[Message]:
            async with _Answer(method, context, self._metrics):
                raise refusal
            yield  # never: it makes this the handler of a stream, which reads no request

        return grpc.stream_stream_rpc_method_handler(refuse)

    async def _admit(self, method: str, answer: "_Answer", context: Context) -> str:
        """Let the caller in and return its token, or refuse."""
        metadata = {key: str(value) for key, value in context.invocation_metadata() or ()}
        secret = _bearer(metadata)
        principal = await self._authenticator.authenticate(secret)
        certified = names_of_peer(context)
        if self._certified:
            check_certificate(principal, certified)
        answer.call = Call(
            principal, answer.request_id, answer.span.traceparent, context.peer(), certified
        )
        set_current_call(answer.call)
        bind_contextvars(org=principal.org_id)
        if not method.startswith(_REFLECTION):
            check_access(principal, method, self._access.get(method))
        return secret

    async def _validated(self, requests: AsyncIterator[Message]) -> AsyncIterator[Message]:
        async for request in requests:
            await self._validator.check(request)
            yield request


class _Answer:
    """Gives whatever a method raises its status, measures it, and logs what is a bug."""

    def __init__(self, method: str, context: Context, metrics: RpcMetrics) -> None:
        self._method = method
        self._context = context
        self._metrics = metrics
        self._began = time.perf_counter()
        self.call: Call | None = None
        metadata = dict(context.invocation_metadata() or ())
        given = metadata.get(REQUEST_ID, "")
        self.request_id = clean_request_id(str(given))
        # What services ask each other all the time is not worth traces of its own.
        self.span = start_span(method[1:], str(metadata.get(TRACEPARENT, "")), only_continue=True)

    async def __aenter__(self) -> "_Answer":
        # For every line that is logged below: each call is served by a task of its own.
        bind_contextvars(request_id=self.request_id)
        self.span.enter()
        self._metrics.begin(self._method)
        self._context.set_trailing_metadata(((REQUEST_ID, self.request_id),))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: object
    ) -> None:
        try:
            await self._end(error)
        finally:
            code = self._code(error)
            self._metrics.end(self._method, code, time.perf_counter() - self._began)
            self.span.end(
                {
                    "rpc.system": "grpc",
                    "rpc.grpc.status_code": grpc.StatusCode[code].value[0],
                    "engineshed.request_id": self.request_id,
                },
                code if code in _FAILED else "",
            )

    def _code(self, error: BaseException | None) -> str:
        if isinstance(error, (asyncio.CancelledError, GeneratorExit)):
            return grpc.StatusCode.CANCELLED.name
        code: grpc.StatusCode | None = self._context.code()  # None until the call is aborted
        return (code or grpc.StatusCode.OK).name

    async def _end(self, error: BaseException | None) -> None:
        if error is None or isinstance(
            error, (grpc.aio.AbortError, asyncio.CancelledError, GeneratorExit)
        ):
            return
        if isinstance(error, grpc.aio.AioRpcError):
            error = error_from(error) or error
        if isinstance(error, DomainError):
            await self._abort(error)
        name = self.call.principal.name if self.call else ""
        log.error(
            "call failed",
            method=self._method,
            caller=name,
            exc_info=error,
        )
        await self._context.abort(
            grpc.StatusCode.INTERNAL,
            f"internal error; the request id is {self.request_id}",
            ((REQUEST_ID, self.request_id),),
        )

    async def _abort(self, error: DomainError) -> None:
        code, _ = STATUS[error.kind]
        log.info(
            "call refused",
            method=self._method,
            code=code.name,
            reason=error.reason,
        )
        status = to_status(error)
        trailing = ((REQUEST_ID, self.request_id), (DETAILS_KEY, status.SerializeToString()))
        await self._context.abort(code, status.message, trailing)


def check_certificate(principal: Principal, names: Set[str]) -> None:
    """Refuse a service's token that comes with another's certificate: it was stolen.

    Raises:
        ForbiddenError: none of `names`, which the certificate carries, is the service's.

    """
    if principal.is_service and part_name(principal.name) not in names:
        raise ForbiddenError(
            f"the token of {principal.name} needs a certificate that names "
            f"{part_name(principal.name)}; this one names: {', '.join(sorted(names)) or 'nothing'}"
        )


def check_access(principal: Principal, method: str, access: Access | None) -> None:
    """Refuse the call unless `access` allows it.

    Raises:
        ForbiddenError: the caller may not call `method`.
    """
    if access is None:
        raise ForbiddenError(f"{method} is open to nobody")
    if principal.is_service:
        if principal.name not in access.services:
            raise ForbiddenError(f"{method} is not for the service {principal.name}")
    elif access.scope is None:
        raise ForbiddenError(f"{method} is for services only")
    elif not principal.may(access.scope):
        raise ForbiddenError(
            f"this needs the scope {access.scope}; the token has: "
            + ", ".join(sorted(principal.scopes)),
            scope=access.scope,
        )


def _note_objects(request: Message) -> None:
    """Let the log lines of a call name the objects that its request names."""
    fields = request.DESCRIPTOR.fields_by_name
    bind_contextvars(
        **{
            label: value
            for name, label in _LOGGED.items()
            if name in fields and (value := getattr(request, name))
        }
    )


def _bearer(metadata: Mapping[str, str]) -> str:
    scheme, _, secret = metadata.get(AUTHORIZATION, "").partition(" ")
    if scheme.lower() != "bearer" or not secret:
        raise UnauthenticatedError("no token; send the metadata: authorization: Bearer <token>")
    return secret.strip()
