"""A gRPC server as every service runs it, behind the gate in `gate.py`."""

from collections.abc import Callable, Mapping
from typing import Any, Final

import grpc
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from engineshed.auth import Authenticator
from engineshed.errors import DomainError, Kind
from engineshed.rpc.gate import Access, Gate
from engineshed.rpc.health import Health
from engineshed.rpc.metrics import RpcMetrics
from engineshed.rpc.tls import server_credentials
from engineshed.runtime.tls import Tls

# The longest request is an agent's status, some hundred bytes a replica.
MAX_REQUEST_BYTES: Final = 4 * 1024 * 1024


class StandbyError(DomainError):
    """The server has not taken over yet."""

    kind = Kind.UNAVAILABLE
    reason = "STANDBY"


class RpcServer:
    """A gRPC server with authentication, access control, validation, health and reflection."""

    def __init__(
        self,
        listen: str,
        authenticator: Authenticator,
        access: Mapping[str, Access],
        refusal: Callable[[], DomainError | None] = lambda: None,
        *,
        tls: Tls | None = None,
    ) -> None:
        """Prepare to listen on `listen` (host:port; port 0 takes a free one).

        Args:
            listen: where.
            authenticator: knows the callers.
            access: names every method that may be called; what it does not name is refused.
            refusal: asked before each call; what it returns refuses the call, whoever makes it.
            tls: the server's certificate. Callers then must have one of the same authority, and a
                service's token counts only beside the certificate of that service. None: plain
                text.

        """
        self._listen = listen
        self._tls = tls
        self._refusal = refusal
        self._stands_by = True
        self.metrics = RpcMetrics(access)
        self._server = grpc.aio.server(
            interceptors=[
                Gate(authenticator, access, self._refuse, self.metrics, certified=tls is not None)
            ],
            options=[
                ("grpc.so_reuseport", 0),
                ("grpc.max_receive_message_length", MAX_REQUEST_BYTES),
                ("grpc.keepalive_permit_without_calls", 1),
                ("grpc.http2.min_ping_interval_without_data_ms", 2_000),
            ],
        )
        self._health = Health()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        self._names = sorted({name.split("/")[1] for name in access})
        reflection.enable_server_reflection(
            [*self._names, health.SERVICE_NAME, reflection.SERVICE_NAME], self._server
        )

    def add(self, register: Callable[[Any, Any], None], servicer: object) -> None:
        """Serve `servicer`; `register` is the generated `add_…Servicer_to_server`.

        It may be added to a server that stands by.
        """
        register(servicer, _Registration(self._server))

    async def start(self, *, standby: bool = False) -> str:
        """Listen and serve; return the address, with the port that was really taken.

        On standby it refuses all calls until `take_over`. The server as a whole is healthy then,
        and each of its services is not: channels that look for a healthy service go elsewhere.
        """
        if self._tls is None:
            port = self._server.add_insecure_port(self._listen)
        else:
            port = self._server.add_secure_port(self._listen, server_credentials(self._tls))
        await self._server.start()
        self._health.set([""], works=True)  # the server as a whole
        self._health.set(self._names, works=False)
        if not standby:
            await self.take_over()
        return f"{self._listen.rpartition(':')[0]}:{port}"

    async def take_over(self) -> None:
        """End the standby."""
        self._stands_by = False
        self._health.set(self._names, works=True)

    def _refuse(self) -> DomainError | None:
        refusal = self._refusal()
        if refusal is None and self._stands_by:
            return StandbyError("this server takes no calls yet; try again in a moment")
        return refusal

    async def stop(self, grace_seconds: float) -> None:
        """Refuse new calls, let those in flight finish for `grace_seconds`, then cut them off."""
        self._health.end()
        await self._server.stop(grace_seconds)


class _Registration:
    """What generated code adds handlers to: a server, whether it has started or not."""

    def __init__(self, server: grpc.aio.Server) -> None:
        self.add_generic_rpc_handlers = server.add_generic_rpc_handlers

    def add_registered_method_handlers(self, *_: object) -> None:
        """Leave the shortcut to the same handlers, which a started server takes no more."""
