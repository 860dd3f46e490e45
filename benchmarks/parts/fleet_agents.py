"""Many agents in one process: the real protocol, each over a connection of its own, no Triton.

They report as agents do: everything, at once when there is news, and again to renew the lease.
Replicas go one stage further with each report.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Final

import grpc

from engineshed import ids
from engineshed.api.agent.v1.agent_service_pb2 import (
    ConnectRequest,
    DesiredState,
    Hello,
    NodeStatus,
    ReplicaStatus,
)
from engineshed.api.agent.v1.agent_service_pb2_grpc import AgentServiceStub
from engineshed.api.scheduler.v1.endpoint_service_pb2 import Replica
from engineshed.api.scheduler.v1.node_service_pb2 import NodeInventory

# As in the agent's own connection to the scheduler.
STATUS_SECONDS: Final = 2.0
PAUSE_SECONDS: Final = 0.1

REGION: Final = "fra"
GPU_TYPE: Final = "h100-sxm"

_OPTIONS: Final = (("grpc.use_local_subchannel_pool", 1),)  # else all share one connection


class Agents:
    """A fleet of agents, and when they first saw what."""

    def __init__(self, address: str, token: str, count: int, gpus: int) -> None:
        self.seen: dict[str, float] = {}  # replica: when an agent was first told of it
        self.first_seen: dict[str, float] = {}  # endpoint: when one of its replicas first was
        self.changed = asyncio.Event()  # set when there is more to see, or a replica is further
        self._agents = [Agent(self, address, token, number, gpus) for number in range(count)]

    def see(self, replica_id: str, endpoint_id: str) -> None:
        """Note that an agent was told to run a replica."""
        now = time.monotonic()
        self.seen.setdefault(replica_id, now)
        self.first_seen.setdefault(endpoint_id, now)
        self.changed.set()

    async def until_seen(self, replicas: int) -> None:
        """Return once so many replicas were seen."""
        while len(self.seen) < replicas:
            self.changed.clear()
            await self.changed.wait()

    async def until_ready(self) -> None:
        """Return once all replicas are reported ready."""
        while any(agent.busy for agent in self._agents):
            self.changed.clear()
            await self.changed.wait()

    async def connect(self) -> float:
        """Connect all at once; return how many seconds it took until all were told what to run."""
        began = time.monotonic()
        await asyncio.gather(*(agent.connect() for agent in self._agents))
        return time.monotonic() - began

    async def disconnect(self) -> None:
        """End all connections."""
        await asyncio.gather(*(agent.disconnect() for agent in self._agents))


class Agent:
    """One node's agent."""

    def __init__(self, fleet: Agents, address: str, token: str, number: int, gpus: int) -> None:
        self._fleet = fleet
        self._address = address
        self._metadata = (("authorization", f"Bearer {token}"),)
        self._hello = Hello(
            node_id=ids.new(ids.NODE),
            boot_id=f"boot-{number}",
            inventory=NodeInventory(
                hostname=f"host-{number}",
                region=REGION,
                gpu_type=GPU_TYPE,
                gpu_count=gpus,
                backends=["torch"],
                simulated=True,
            ),
        )
        self._replicas: dict[str, ReplicaStatus] = {}
        self._since: dict[str, float] = {}
        self._desired = DesiredState()
        self._news = asyncio.Event()
        self._settled = asyncio.Event()
        self._serving: asyncio.Task[None] | None = None

    @property
    def busy(self) -> bool:
        """Whether a replica is still on its way."""
        return any(one.state < Replica.STATE_READY for one in self._replicas.values())

    async def connect(self) -> None:
        """Connect, and return once told of all that runs here."""
        self._settled.clear()
        self._serving = asyncio.create_task(self._serve())
        settled = asyncio.create_task(self._settled.wait())
        await asyncio.wait((self._serving, settled), return_when=asyncio.FIRST_COMPLETED)
        if self._serving.done():
            raise RuntimeError("the connection ended") from self._serving.exception()

    async def disconnect(self) -> None:
        """End the connection."""
        assert self._serving is not None
        self._serving.cancel()
        await asyncio.gather(self._serving, return_exceptions=True)

    async def _serve(self) -> None:
        async with grpc.aio.insecure_channel(self._address, options=_OPTIONS) as channel:
            stub = AgentServiceStub(channel)
            call = stub.Connect(self._reports(), metadata=self._metadata, wait_for_ready=True)
            async for response in call:
                self._obey(response.desired)

    def _obey(self, desired: DesiredState) -> None:
        self._desired = desired
        for replica in desired.replicas:
            if replica.replica_id not in self._replicas:
                self._replicas[replica.replica_id] = ReplicaStatus(
                    replica_id=replica.replica_id,
                    endpoint_id=replica.endpoint_id,
                    state=Replica.STATE_PLACED,
                    url=f"http://{replica.replica_id}.test",
                    engine_digest="sha256:engine",
                    engine_backend="torch",
                )
                self._since[replica.replica_id] = time.monotonic()
                self._fleet.see(replica.replica_id, replica.endpoint_id)
        self._news.set()
        if self._replicas.keys() == {replica.replica_id for replica in desired.replicas}:
            self._settled.set()

    async def _reports(self) -> AsyncIterator[ConnectRequest]:
        with suppress(GeneratorExit):
            yield ConnectRequest(hello=self._hello)
            while True:
                yield ConnectRequest(status=self._status())
                await asyncio.sleep(PAUSE_SECONDS)
                with suppress(TimeoutError):
                    async with asyncio.timeout(STATUS_SECONDS - PAUSE_SECONDS):
                        await self._news.wait()
                self._advance()

    def _status(self) -> NodeStatus:
        for replica_id, status in self._replicas.items():
            age = time.monotonic() - self._since[replica_id]
            status.state_age.FromMilliseconds(int(age * 1000))
        return NodeStatus(
            replicas=self._replicas.values(),
            term=self._desired.term,
            generation=self._desired.generation,
        )

    def _advance(self) -> None:
        self._news.clear()
        for replica_id, status in self._replicas.items():
            if status.state < Replica.STATE_READY:
                status.state = Replica.State.ValueType(status.state + 1)
                self._since[replica_id] = time.monotonic()
                self._news.set()
                self._fleet.changed.set()
