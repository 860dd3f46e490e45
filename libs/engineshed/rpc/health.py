"""Whether a server's services work, told to those who ask and to those who watch.

The library's own servicer for asyncio forgets everybody who watches a service as soon as one of
them leaves: their channels would never hear that a standby has taken over.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any

import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthServicer

Context = grpc.aio.ServicerContext[Any, Any]


class Health(HealthServicer):  # type: ignore[misc]  # the library is not typed
    """The state of each service, by its full name; that of the whole server has no name."""

    def __init__(self) -> None:
        self._states: dict[str, int] = {}
        self._changed = asyncio.Event()  # set, and replaced by a new one, at each change

    def set(self, names: Iterable[str], *, works: bool) -> None:
        """Say of services whether they work."""
        state = HealthCheckResponse.SERVING if works else HealthCheckResponse.NOT_SERVING
        self._states |= dict.fromkeys(names, state)
        self._changed.set()
        self._changed = asyncio.Event()

    def end(self) -> None:
        """Say of everything that it works no more."""
        self.set(self._states, works=False)

    async def Check(  # noqa: N802 - gRPC dictates the name
        self, request: HealthCheckRequest, context: Context
    ) -> HealthCheckResponse:
        """Return the state of a service."""
        if request.service not in self._states:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no service {request.service!r} here")
        return HealthCheckResponse(status=self._states[request.service])

    async def Watch(  # noqa: N802 - gRPC dictates the name
        self,
        request: HealthCheckRequest,
        context: Context,  # noqa: ARG002 - gRPC passes it
    ) -> AsyncIterator[HealthCheckResponse]:
        """Yield the state of a service now and at each change."""
        last: int | None = None
        while True:
            changed = self._changed  # before the look: a change after it counts
            state = self._states.get(request.service, HealthCheckResponse.SERVICE_UNKNOWN)
            if state != last:
                yield HealthCheckResponse(status=state)
                last = state
            await changed.wait()
