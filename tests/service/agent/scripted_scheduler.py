"""A scheduler that wants what the test says and remembers what it was told."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc

from engineshed.api.agent.v1.agent_service_pb2 import (
    ConnectRequest,
    ConnectResponse,
    DesiredReplica,
    DesiredState,
    Hello,
    NodeStatus,
    ReplicaStatus,
)
from engineshed.api.agent.v1.agent_service_pb2_grpc import (
    AgentServiceServicer,
    add_AgentServiceServicer_to_server,
)
from engineshed.auth import ServiceTokens, hash_token
from engineshed.rpc import LEADER, Access, RpcServer

CONNECT = "/engineshed.api.agent.v1.AgentService/Connect"


class ScriptedScheduler(AgentServiceServicer):
    """Serves agents on one address, again on the same one after it was stopped."""

    def __init__(self, agent_token: str) -> None:
        self._tokens = ServiceTokens({"agent": hash_token(agent_token)})
        self._server: RpcServer | None = None
        self._outbox: asyncio.Queue[DesiredState] = asyncio.Queue()
        self.address = "127.0.0.1:0"
        self.desired: DesiredState | None = None
        self.hellos: list[Hello] = []
        self.reports: list[NodeStatus] = []

    async def start(self) -> None:
        access = {
            CONNECT: Access(scope=None, services=frozenset({"agent"})),
            f"/{LEADER}/GetEndpoint": Access(scope=None),  # agents look for the one that leads
        }
        self._server = RpcServer(self.address, self._tokens, access)
        self._server.add(add_AgentServiceServicer_to_server, self)
        self.address = await self._server.start()

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop(0)
            self._server = None

    def want(self, *replicas: DesiredReplica, term: int = 1, generation: int | None = None) -> None:
        """Send a desired state, the next one unless its number is given."""
        if generation is None:
            generation = self.desired.generation + 1 if self.desired else 1
        self.desired = DesiredState(term=term, generation=generation, replicas=replicas)
        self._outbox.put_nowait(self.desired)

    def report(self, replica_id: str) -> ReplicaStatus | None:
        """Return what was last told of a replica."""
        last = self.reports[-1].replicas if self.reports else ()
        return next((report for report in last if report.replica_id == replica_id), None)

    def history(self, replica_id: str) -> Sequence[ReplicaStatus]:
        """Return everything that was ever told of a replica."""
        return [
            report
            for status in self.reports
            for report in status.replicas
            if report.replica_id == replica_id
        ]

    async def Connect(
        self,
        request_iterator: AsyncIterator[ConnectRequest],
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> AsyncIterator[ConnectResponse]:
        reading = asyncio.create_task(self._read(request_iterator))
        self._outbox = asyncio.Queue()
        if self.desired is not None:
            self._outbox.put_nowait(self.desired)
        try:
            while True:
                yield ConnectResponse(desired=await self._outbox.get())
        finally:
            reading.cancel()

    async def _read(self, requests: AsyncIterator[ConnectRequest]) -> None:
        async for request in requests:
            if request.HasField("hello"):
                self.hellos.append(request.hello)
            else:
                self.reports.append(request.status)
