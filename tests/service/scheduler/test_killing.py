"""The scheduler killed at random points, and ended in peace: it goes on from what is true."""

import asyncio
import os
import random
import signal
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import UTC
from typing import Any

import grpc
import pytest
from nats.js import JetStreamContext
from tests.service.eventstore.servers import ON_EACH_DATABASE
from tests.service.scheduler.conftest import Join
from tests.service.scheduler.replays import require_reproducible
from tests.service.scheduler.stack import Stack, Tenant, eventually

from engineshed.api.events.v1.event_service_pb2 import Event
from engineshed.api.scheduler.v1 import endpoint_service_pb2 as pb
from engineshed.api.scheduler.v1 import events_pb2
from engineshed.bus import Bus
from engineshed.runtime import utc_now

E = pb.Endpoint

SEED = int(os.environ.get("ENGINESHED_TEST_SEED", "20260101"))
OWNERS = 6
KILLS = 6
GPUS = 4
LONGER_THAN_A_LEASE_S = 3
TRY_AGAIN = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


async def acknowledged(call: Callable[[], Awaitable[Any]]) -> E:
    """Repeat a request, under its one id, until it is answered."""
    async with asyncio.timeout(60):
        while True:
            try:
                endpoint: E = (await call()).endpoint
            except grpc.aio.AioRpcError as error:
                if error.code() not in TRY_AGAIN:
                    raise
                await asyncio.sleep(0.05)
            else:
                return endpoint


class Owner:
    """Creates an endpoint and then changes its mind again and again."""

    def __init__(self, tenant: Tenant, region: str, number: int) -> None:
        self._tenant = tenant
        self._region = region
        self._random = random.Random(SEED + number)
        self._number = number
        self.endpoint_id = ""
        self.enabled = True
        self.deleted = False

    async def run(self, over: asyncio.Event) -> None:
        stub = self._tenant.endpoints
        create = pb.CreateEndpointRequest(
            name=f"bot {self._number}",
            region=self._region,
            checkpoint_id=self._tenant.catalog.checkpoint(self._tenant.org_id),
            request_id=f"create {self._number}",
        )
        created = await acknowledged(lambda: stub.CreateEndpoint(create, timeout=5))
        self.endpoint_id = created.endpoint_id
        step = 0
        while not over.is_set():
            await asyncio.sleep(self._random.uniform(0, 0.5))
            step += 1
            await self._change_mind(f"{self._number} {step}")
        if self._number % 3 == 0:
            key = {"endpoint_id": self.endpoint_id, "request_id": f"delete {self._number}"}
            delete = pb.DeleteEndpointRequest(**key)
            await acknowledged(lambda: stub.DeleteEndpoint(delete, timeout=5))
            self.deleted = True

    async def _change_mind(self, request_id: str) -> None:
        stub = self._tenant.endpoints
        key = {"endpoint_id": self.endpoint_id, "request_id": request_id}
        if self.enabled:
            stop = pb.StopEndpointRequest(**key)
            await acknowledged(lambda: stub.StopEndpoint(stop, timeout=5))
        else:
            restart = pb.RestartEndpointRequest(**key)
            await acknowledged(lambda: stub.RestartEndpoint(restart, timeout=5))
        self.enabled = not self.enabled

    def settled(self, endpoint: E) -> bool:
        if self.deleted:
            return endpoint.state == E.STATE_TERMINATED and not any(
                replica.state < pb.Replica.STATE_STOPPED for replica in endpoint.replicas
            )
        if not self.enabled:
            return endpoint.state == E.STATE_STOPPED
        return endpoint.state in (E.STATE_RUNNING, E.STATE_QUEUED)


async def kill_again_and_again(stack: Stack) -> None:
    """Kill it while it serves, and now and then while it starts."""
    chance = random.Random(SEED)
    for number in range(KILLS):
        if number % 3 < 2:
            await eventually("it to serve", stack.listens)
        await asyncio.sleep(chance.uniform(0, 0.6))
        stack.kill()
        stack.start()


async def published(stack: Stack) -> list[tuple[str, int]]:
    """Return ids and positions of the scheduler's events in the broker, in their order."""
    bus = await Bus.connect(stack.broker.urls["scheduler"], name="test")
    await bus.wait_connected()

    async def read(js: JetStreamContext) -> list[tuple[str, int]]:
        found: list[tuple[str, int]] = []
        info = await js.stream_info("ENGINESHED_EVENTS")
        for sequence in range(1, info.state.last_seq + 1):
            message = await js.get_msg("ENGINESHED_EVENTS", sequence)
            headers = message.headers or {}
            found.append((headers["ce-id"], int(headers["ce-sequence"])))
        return found

    try:
        return await bus.call(read, deadline=30)
    finally:
        await bus.close()


def require_no_gpu_held_twice(events: list[Event]) -> None:
    held: dict[tuple[str, int], str] = {}
    for event in events:
        placed, ended = events_pb2.ReplicaPlaced(), events_pb2.ReplicaStopped()
        if event.data.Unpack(placed):
            for gpu in placed.gpus:
                assert (placed.node_id, gpu) not in held, event
                held[placed.node_id, gpu] = placed.replica_id
        elif event.data.Is(events_pb2.ReplicaStopped.DESCRIPTOR) or event.data.Is(
            events_pb2.ReplicaFailed.DESCRIPTOR
        ):
            ended.MergeFromString(event.data.value)
            held = {where: who for where, who in held.items() if who != ended.replica_id}


@ON_EACH_DATABASE
async def test_killed_at_random_points_it_loses_nothing_and_gives_no_gpu_twice(
    own_stack: Stack, tenant: Tenant, join: Join, region: str
) -> None:
    agents = [await join(gpus=GPUS // 2) for _ in range(2)]
    await own_stack.publish_tokens()
    owners = [Owner(tenant, region, number) for number in range(OWNERS)]
    over = asyncio.Event()
    working = asyncio.gather(*(owner.run(over) for owner in owners))
    await kill_again_and_again(own_stack)
    over.set()
    await working
    own_stack.restart()

    async def all_settled() -> bool:
        found = [await tenant.get(owner.endpoint_id) for owner in owners]
        running = sum(endpoint.state == E.STATE_RUNNING for endpoint in found)
        enabled = sum(owner.enabled and not owner.deleted for owner in owners)
        return running == min(enabled, GPUS) and all(
            owner.settled(endpoint) for owner, endpoint in zip(owners, found, strict=True)
        )

    await eventually("all to be as their owners want it", all_settled)
    deleted = {owner.endpoint_id for owner in owners if owner.deleted}
    await eventually("holds", lambda: not deleted & own_stack.catalog.held_for(tenant.org_id))
    assert own_stack.catalog.held_for(tenant.org_id) >= {
        owner.endpoint_id for owner in owners if not owner.deleted
    }

    recorded = await tenant.events()
    require_no_gpu_held_twice(recorded)
    created = Counter(
        event.stream for event in recorded if event.data.Is(events_pb2.EndpointCreated.DESCRIPTOR)
    )
    assert set(created) == {f"endpoint/{owner.endpoint_id}" for owner in owners}
    operator = own_stack.tenant("operator", "endpoints:read")
    everything = await operator.events()
    await operator.close()
    terms = [event for event in everything if event.stream == "scheduler/leader"]
    assert len(terms) > KILLS // 2, "it was really killed while it served"

    wanted = [(event.event_id, event.position) for event in everything]
    assert [position for _, position in wanted] == list(range(1, len(wanted) + 1))

    async def all_published() -> bool:
        return len(set(await published(own_stack))) >= len(wanted)

    await eventually("all events in the broker", all_published)
    assert await published(own_stack) == wanted
    await require_reproducible(own_stack)
    for agent in agents:
        running = {replica.replica_id for replica in agent.desired.replicas}
        await eventually("nothing else to run", lambda: set(agent.running()) <= running)  # noqa: B023 - called at once


async def test_ended_in_peace_it_goes_on_where_it_was(
    own_stack: Stack, tenant: Tenant, join: Join, region: str
) -> None:
    agent = await join()
    endpoint_id = (await tenant.create(region)).endpoint_id
    await tenant.until(endpoint_id, E.STATE_RUNNING)
    (replica_id,) = agent.running()
    assert own_stack.terminate() == 0
    await asyncio.sleep(LONGER_THAN_A_LEASE_S)
    own_stack.start()
    own_stack.wait_ready()

    term = agent.desired.term
    await eventually("the next term", lambda: agent.desired.term > term)
    assert (await tenant.get(endpoint_id)).state == E.STATE_RUNNING
    assert agent.running() == [replica_id], "a restart of the scheduler touches no replica"
    assert "ReplicaLost" not in await tenant.history(endpoint_id)


@pytest.mark.parametrize("killed", [False, True])
async def test_a_node_that_fell_silent_while_it_was_away_is_lost_since_then(
    own_stack: Stack, tenant: Tenant, join: Join, region: str, killed: bool
) -> None:
    agent = await join()
    endpoint_id = (await tenant.create(region)).endpoint_id
    await tenant.until(endpoint_id, E.STATE_RUNNING)
    if killed:  # perhaps before it has noted for the first time when the node was heard
        own_stack.kill()
    else:
        assert own_stack.terminate() == 0
    silent_since = utc_now()
    await agent.stop()
    await asyncio.sleep(LONGER_THAN_A_LEASE_S)
    own_stack.start()
    own_stack.wait_ready()

    await tenant.until(endpoint_id, E.STATE_PROVISIONING)
    lost = events_pb2.ReplicaLost()
    for event in await tenant.events(f"endpoint/{endpoint_id}"):
        event.data.Unpack(lost)
    assert lost.effective_at.ToDatetime(UTC) <= silent_since


async def test_stopped_for_longer_than_a_lease_it_takes_nobody_for_lost(
    own_stack: Stack, tenant: Tenant, join: Join, region: str
) -> None:
    await join()
    endpoint_id = (await tenant.create(region)).endpoint_id
    await tenant.until(endpoint_id, E.STATE_RUNNING)
    assert own_stack.process is not None
    own_stack.process.send_signal(signal.SIGSTOP)
    await asyncio.sleep(LONGER_THAN_A_LEASE_S)
    own_stack.process.send_signal(signal.SIGCONT)
    await tenant.until((await tenant.create(region)).endpoint_id, E.STATE_RUNNING)
    assert "ReplicaLost" not in await tenant.history(endpoint_id)
