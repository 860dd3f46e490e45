"""ReplicaService: the control side, for the replica's agent."""

import hmac
import time
from collections.abc import Mapping
from typing import Any, Final, Protocol, TypeAlias

import grpc

from engineshed import ids
from engineshed.api.replica.v1 import replica_service_pb2 as pb
from engineshed.api.replica.v1 import replica_service_pb2_grpc as rpc
from engineshed.auth import Principal, UnauthenticatedError
from engineshed.rpc import Access

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]

_AGENT: Final = "agent"
"""Whoever holds the replica's secret counts as it; with TLS its certificate must say so, too."""
_SERVICE: Final = "/engineshed.api.replica.v1.ReplicaService"
ACCESS: Final[Mapping[str, Access]] = {
    f"{_SERVICE}/{method}": Access(scope=None, services=frozenset({_AGENT}))
    for method in ("GetStatus", "Drain", "GetMetrics")
}


class SecretAuthenticator:
    """Knows one caller: who holds the replica's secret."""

    def __init__(self, secret: str) -> None:
        self._secret = secret.encode()

    async def authenticate(self, secret: str) -> Principal:
        """Return the holder of the secret.

        Raises:
            UnauthenticatedError: it is another one.

        """
        if not hmac.compare_digest(secret.encode(), self._secret):
            raise UnauthenticatedError("this is not the secret of this replica")
        return Principal(_AGENT, ids.PLATFORM, frozenset(), is_service=True)


class Controls(Protocol):
    """What the service lets its caller see and do."""

    @property
    def state(self) -> pb.ReplicaState:
        """What the replica is doing."""
        ...

    @property
    def in_flight(self) -> int:
        """How many requests it has now."""
        ...

    @property
    def in_flight_seconds(self) -> float:
        """How long all its requests together have been in flight."""
        ...

    @property
    def idle_seconds(self) -> float | None:
        """Since when it has no request, or is ready; None before that, 0 while it has some."""
        ...

    def drain(self) -> None:
        """Take no more requests."""
        ...

    def heard(self) -> None:
        """Take note that the agent knows what the replica is doing."""
        ...

    async def metrics(self) -> tuple[str, str]:
        """Return the front's metrics and Triton's."""
        ...


class ReplicaServicer(rpc.ReplicaServiceServicer):
    """Translates; what it does is done by the front."""

    def __init__(self, controls: Controls) -> None:
        self._controls = controls
        self._started = time.monotonic()

    async def GetStatus(
        self, request: pb.GetStatusRequest, context: Context
    ) -> pb.GetStatusResponse:
        """Return what the replica is doing."""
        controls = self._controls
        response = pb.GetStatusResponse(
            state=controls.state,
            in_flight=controls.in_flight,
            in_flight_seconds=controls.in_flight_seconds,
        )
        response.uptime.FromNanoseconds(int((time.monotonic() - self._started) * 1e9))
        if (idle := controls.idle_seconds) is not None:
            response.idle_age.FromNanoseconds(round(idle * 1e9))
        controls.heard()
        return response

    async def Drain(self, request: pb.DrainRequest, context: Context) -> pb.DrainResponse:
        """Take no more requests."""
        self._controls.drain()
        return pb.DrainResponse(in_flight=self._controls.in_flight)

    async def GetMetrics(
        self, request: pb.GetMetricsRequest, context: Context
    ) -> pb.GetMetricsResponse:
        """Return the metrics."""
        front, triton = await self._controls.metrics()
        return pb.GetMetricsResponse(front=front, triton=triton)
