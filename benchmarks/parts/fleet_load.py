"""The load on a scheduler: 200 agents, and callers that create and scale endpoints.

`python -m benchmarks.parts.fleet_load ADDRESS AGENT_TOKEN TOKEN CHECKPOINT SIZE` prints one JSON
object with what it has measured, then waits until its standard input ends: the agents go on.
SIZE is a JSON object with the fields of `Size`.
"""

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import asdict, dataclass
from typing import TypeVar

import grpc
from benchmarks.parts.fleet_agents import GPU_TYPE, REGION, Agents
from google.protobuf.field_mask_pb2 import FieldMask

from engineshed.api.scheduler.v1 import endpoint_service_pb2 as pb
from engineshed.api.scheduler.v1.endpoint_service_pb2_grpc import EndpointServiceStub
from engineshed.rpc import LEADER, open_channel

T = TypeVar("T")
Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Size:
    """How large the fleet is and what is asked of it."""

    agents: int
    gpus: int  # of each
    endpoints: int
    callers: int  # who create at the same time
    scaled: int  # endpoints
    replicas: int  # of each of those, in the end


@dataclass(frozen=True, slots=True)
class Found:
    """What was measured, in seconds."""

    joining: float  # until the last of the agents, which were all new, had its desired state
    creating: float  # all endpoints, until the last placement was seen
    placing: list[float]  # from a call that creates to the first sight of the placement
    answering: list[float]  # from a call that creates to its answer
    scaling: float  # from the first call that scales to the sight of the last placement
    placements: int  # seen meanwhile
    reconnecting: list[float]  # until the last of the agents had its desired state, each time


async def main() -> None:
    """Measure and print."""
    address, agent_token, token, checkpoint, size = sys.argv[1:]
    load = Load(address, agent_token, token, checkpoint, Size(**json.loads(size)))
    print(json.dumps(asdict(await load.measure())), flush=True)
    await asyncio.to_thread(sys.stdin.read)


class Load:
    """Agents and callers."""

    def __init__(
        self, address: str, agent_token: str, token: str, checkpoint: str, size: Size
    ) -> None:
        self._size = size
        self._checkpoint = checkpoint
        self._agents = Agents(address, agent_token, size.agents, size.gpus)
        channel: grpc.aio.Channel = open_channel(address, token, "bench", healthy=LEADER)
        self._endpoints = EndpointServiceStub(channel)

    async def measure(self) -> Found:
        """Let it all happen, one thing after the other."""
        size, agents = self._size, self._agents
        joining = await agents.connect()
        began = time.monotonic()
        created = await _spread(range(size.endpoints), size.callers, self._create)
        await agents.until_seen(size.endpoints)
        creating = max(agents.seen.values()) - began
        await agents.until_ready()

        scaled = [endpoint_id for endpoint_id, _, _ in created[: size.scaled]]
        before = len(agents.seen)
        more = size.scaled * (size.replicas - 1)
        began = time.monotonic()
        await _spread(scaled, size.callers, self._scale)
        await agents.until_seen(before + more)
        scaling = max(agents.seen.values()) - began
        await agents.until_ready()

        reconnecting = []
        for _ in range(3):
            await agents.disconnect()
            reconnecting.append(await agents.connect())
        return Found(
            joining=joining,
            creating=creating,
            placing=[agents.first_seen[one] - called for one, called, _ in created],
            answering=[answered - called for _, called, answered in created],
            scaling=scaling,
            placements=more,
            reconnecting=reconnecting,
        )

    async def _create(self, number: int) -> tuple[str, float, float]:
        """Create an endpoint; return its id, when it was asked for and when it was answered."""
        called = time.monotonic()
        request = pb.CreateEndpointRequest(
            name=f"bot {number}",
            region=REGION,
            gpu_type=GPU_TYPE,
            gpu_count=1,
            checkpoint_id=self._checkpoint,
        )
        answer = await self._endpoints.CreateEndpoint(request, wait_for_ready=True)
        return answer.endpoint.endpoint_id, called, time.monotonic()

    async def _scale(self, endpoint_id: str) -> None:
        replicas = self._size.replicas
        scaling = pb.Scaling(min_replicas=replicas, max_replicas=replicas)
        request = pb.UpdateEndpointRequest(
            endpoint_id=endpoint_id,
            endpoint=pb.EndpointUpdate(scaling=scaling),
            update_mask=FieldMask(paths=["scaling"]),
        )
        await self._endpoints.UpdateEndpoint(request, wait_for_ready=True)


async def _spread(
    items: Iterable[Item], workers: int, work: Callable[[Item], Awaitable[T]]
) -> list[T]:
    """Do `work` on all items, so many at the same time."""
    remaining = iter(items)

    async def go_on() -> list[T]:
        return [await work(item) for item in remaining]

    return [
        one for done in await asyncio.gather(*(go_on() for _ in range(workers))) for one in done
    ]


if __name__ == "__main__":
    asyncio.run(main())
