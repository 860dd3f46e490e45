"""An agent that runs nothing and says what the test wants it to say, over the real protocol.

Left alone it does what a good agent does: it takes each replica from stage to stage, one with each
report, drains and stops what it should, and forgets what is no longer desired.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import suppress

import grpc

from engineshed import ids
from engineshed.api.agent.v1.agent_service_pb2 import (
    ConnectRequest,
    DesiredReplica,
    DesiredState,
    Hello,
    NodeStatus,
    ReplicaStatus,
)
from engineshed.api.agent.v1.agent_service_pb2_grpc import AgentServiceStub
from engineshed.api.scheduler.v1.endpoint_service_pb2 import Replica
from engineshed.api.scheduler.v1.node_service_pb2 import NodeInventory
from engineshed.rpc import LEADER, open_channel

TOKEN = "svc_agent_of-the-tests"
REPORT_S = 0.05

ENDED = (Replica.STATE_STOPPED, Replica.STATE_FAILED)
LAST_STAGE = {
    DesiredReplica.GOAL_RUN: Replica.STATE_READY,
    DesiredReplica.GOAL_DRAIN: Replica.STATE_STOPPED,
    DesiredReplica.GOAL_STOP: Replica.STATE_STOPPED,
}


async def refusal(address: str, token: str | None, first: ConnectRequest) -> grpc.StatusCode:
    """Return how a connection ends that begins with `first`.

    It takes gRPC's blocking client: the other one may call a refusal an internal error of its own
    when it is still sending.
    """

    def connect() -> grpc.StatusCode:
        metadata = (("authorization", f"Bearer {token}"),) if token else ()
        with grpc.insecure_channel(address) as channel:
            replies = AgentServiceStub(channel).Connect(
                iter([first]), metadata=metadata, timeout=30
            )
            with suppress(grpc.RpcError):
                for _ in replies:
                    pass
            code: grpc.StatusCode = replies.code()
        return code

    return await asyncio.to_thread(connect)


class ScriptedAgent:
    """One node's agent; its replicas outlive its connections."""

    def __init__(
        self,
        address: str,
        *,
        region: str,
        gpus: int = 4,
        gpu_type: str = "cpu",
        backends: tuple[str, ...] = ("torch",),
        simulated: bool = False,
        hostname: str = "host",
        token: str = TOKEN,
        report_s: float = REPORT_S,
    ) -> None:
        self.node_id = ids.new(ids.NODE)
        self.inventory = NodeInventory(
            hostname=hostname,
            region=region,
            gpu_type=gpu_type,
            gpu_count=gpus,
            backends=backends,
            simulated=simulated,
        )
        self.boot_id = "boot"
        self.willing = True  # takes replicas further by itself
        self.replicas: dict[str, ReplicaStatus] = {}
        self.gpus: dict[str, tuple[int, ...]] = {}
        self.desired = DesiredState()
        self.received: list[DesiredState] = []
        self.error: grpc.aio.AioRpcError | None = None  # how the last connection ended
        self.faults: list[str] = []  # what no scheduler may ever ask for
        self._address = address
        self._token = token
        self._report_s = report_s
        self._since: dict[str, float] = {}
        self.loads: dict[str, float] = {}  # requests in flight by replica; others have none
        self._loaded_at = time.monotonic()
        self._connection: asyncio.Task[None] | None = None

    # What a test does with it.

    def start(self) -> "ScriptedAgent":
        """Connect, and again whenever that ends."""
        self._connection = asyncio.create_task(self._stay_connected())
        return self

    async def stop(self) -> None:
        """Fall silent; what runs goes on running."""
        if self._connection is not None:
            self._connection.cancel()
            await asyncio.gather(self._connection, return_exceptions=True)
            self._connection = None

    def set(self, replica_id: str, state: Replica.State.ValueType, **fields: object) -> None:
        """Let a replica be in a state from now on."""
        status = self.replicas[replica_id]
        status.state = state
        for name, value in fields.items():
            setattr(status, name, value)
        self._since[replica_id] = time.monotonic()

    def goals(self) -> dict[str, DesiredReplica.Goal.ValueType]:
        return {replica.replica_id: replica.goal for replica in self.desired.replicas}

    def running(self) -> list[str]:
        return [one for one, status in self.replicas.items() if status.state not in ENDED]

    # What it does by itself.

    async def _stay_connected(self) -> None:
        async with open_channel(self._address, self._token, "agent", healthy=LEADER) as channel:
            while True:
                call = AgentServiceStub(channel).Connect(self._requests())
                try:
                    async for response in call:
                        self._obey(response.desired)
                except grpc.aio.AioRpcError as error:
                    self.error = error
                finally:
                    call.cancel()
                await asyncio.sleep(self._report_s)

    async def _requests(self) -> AsyncIterator[ConnectRequest]:
        with suppress(GeneratorExit):
            hello = Hello(node_id=self.node_id, inventory=self.inventory, boot_id=self.boot_id)
            yield ConnectRequest(hello=hello)
            while True:
                if self.willing:
                    self._advance()
                yield ConnectRequest(status=self.status())
                await asyncio.sleep(self._report_s)

    def status(self) -> NodeStatus:
        now = time.monotonic()
        elapsed, self._loaded_at = now - self._loaded_at, now
        for replica_id, status in self.replicas.items():
            status.state_age.FromMilliseconds(int((now - self._since[replica_id]) * 1000))
            if status.state == Replica.STATE_READY:
                self._tell_load(status, elapsed)
        return NodeStatus(
            replicas=self.replicas.values(),
            term=self.desired.term,
            generation=self.desired.generation,
        )

    def _tell_load(self, status: ReplicaStatus, elapsed: float) -> None:
        load = self.loads.get(status.replica_id, 0.0)
        status.in_flight_seconds += elapsed * load
        idle = 0.0 if load else status.idle_age.ToMilliseconds() / 1000 + elapsed
        status.idle_age.FromMilliseconds(int(idle * 1000))

    def _obey(self, desired: DesiredState) -> None:
        if (desired.term, desired.generation) < (self.desired.term, self.desired.generation):
            self.faults.append(f"went back to {desired.term}, {desired.generation}")
            return
        self.desired = desired
        self.received.append(desired)
        for replica in desired.replicas:
            if replica.replica_id not in self.replicas:
                self._begin(replica)

    def _begin(self, replica: DesiredReplica) -> None:
        taken = {gpu for other in self.running() for gpu in self.gpus[other]}
        if taken.intersection(replica.gpus):
            self.faults.append(f"{replica.replica_id} was given a GPU that is taken")
        if any(gpu >= self.inventory.gpu_count for gpu in replica.gpus):
            self.faults.append(f"{replica.replica_id} was given a GPU that is not there")
        self.gpus[replica.replica_id] = tuple(replica.gpus)
        self.replicas[replica.replica_id] = ReplicaStatus(
            replica_id=replica.replica_id,
            endpoint_id=replica.endpoint_id,
            state=Replica.STATE_PLACED,
            url=f"http://{replica.replica_id}.test",
            engine_digest="sha256:engine",
            engine_backend="torch",
        )
        self._since[replica.replica_id] = time.monotonic()

    def _advance(self) -> None:
        goals = self.goals()
        for replica_id, status in list(self.replicas.items()):
            last = LAST_STAGE.get(goals.get(replica_id, DesiredReplica.GOAL_STOP))
            if replica_id not in goals and (status.state in ENDED or self.desired.term == 0):
                if self.desired.term:
                    del self.replicas[replica_id]
            elif last == Replica.STATE_STOPPED and status.state not in ENDED:
                self.set(replica_id, Replica.STATE_STOPPED)
            elif last == Replica.STATE_READY and status.state < Replica.STATE_READY:
                self.set(replica_id, Replica.State.ValueType(status.state + 1))
