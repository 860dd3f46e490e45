"""Two schedulers on one database: one leads, and the other one takes over when it cannot."""

import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import grpc
import pytest
from tests.ports import a_free_port
from tests.service.eventstore.servers import PostgresServer
from tests.service.scheduler.replays import require_reproducible
from tests.service.scheduler.scripted_agent import ScriptedAgent
from tests.service.scheduler.stack import Stack, Tenant, eventually

from engineshed import ids
from engineshed.api.scheduler.v1 import events_pb2
from engineshed.api.scheduler.v1.endpoint_service_pb2 import Endpoint, GetEndpointRequest
from engineshed.api.scheduler.v1.endpoint_service_pb2_grpc import EndpointServiceStub
from engineshed.errors import Kind
from engineshed.rpc import error_from, open_channel

LEADER_LEASE_S = "2"


class Member:
    """One of two schedulers."""

    def __init__(self, stack: Stack, name: str, address: str) -> None:
        self.address = address
        self.log = stack.directory / f"{name}.log"
        self._environment = {**stack.environment, "ENGINESHED_LISTEN": address}
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "engineshed.scheduler"],
                env=self._environment,
                stdout=log,
                stderr=log,
            )

    def start_again(self) -> None:
        assert self.process.poll() is not None
        self.process = self._start()

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def leads(self) -> bool:
        return '"event": "ready"' in self.log.read_text()


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    with PostgresServer() as server:
        yield server


@pytest.fixture
def stack(tmp_path: Path, postgres: PostgresServer) -> Iterator[Stack]:
    stack = Stack(
        tmp_path,
        ENGINESHED_DATABASE_URL=postgres.new_database(),
        ENGINESHED_LEADER_LEASE_S=LEADER_LEASE_S,
        ENGINESHED_CHECKPOINT_POLL_S="0.2",
    )
    yield stack
    stack.close()


@pytest.fixture
async def members(stack: Stack) -> AsyncIterator[tuple[Member, Member]]:
    """The leader, then the one that stands by."""
    addresses = [f"127.0.0.1:{a_free_port()}" for _ in range(2)]
    stack.target = f"ipv4:{','.join(addresses)}"
    leader = Member(stack, "first", addresses[0])
    await eventually("the leader", leader.leads)
    standby = Member(stack, "second", addresses[1])
    yield leader, standby
    for member in (leader, standby):
        member.process.kill()
        member.process.wait()


async def elections(tenant: Tenant) -> list[int]:
    """Return the terms that began, in order."""
    terms = []
    for event in await tenant.events("scheduler/leader"):
        elected = events_pb2.SchedulerElected()
        event.data.Unpack(elected)
        terms.append(elected.term)
    return terms


async def placements(tenant: Tenant, endpoint_id: str) -> int:
    return (await tenant.history(endpoint_id)).count("ReplicaPlaced")


async def create_when_led(tenant: Tenant, region: str) -> Endpoint:
    """Create an endpoint as callers do: again under the same id, until somebody leads."""
    request_id = ids.new(ids.EVENT)

    async def create() -> Endpoint | None:
        try:
            return await tenant.create(region, request_id=request_id)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
            return None

    endpoint: Endpoint = await eventually("a leader", create)
    return endpoint


@pytest.fixture
async def agent(stack: Stack, members: object, region: str) -> AsyncIterator[ScriptedAgent]:
    agent = stack.agent(region=region).start()
    await eventually("the desired state", lambda: agent.received)
    yield agent
    await agent.stop()
    assert agent.faults == []


async def test_the_one_that_stands_by_says_who_leads(members, stack: Stack, tenant: Tenant) -> None:
    leader, standby = members
    await eventually("the standby", lambda: '"standing by"' in standby.log.read_text())
    token = stack.catalog.token(tenant.org_id, "admin")
    async with open_channel(standby.address, token, "test") as channel:
        request = GetEndpointRequest(endpoint_id="ep_01ARZ3NDEKTSV4RRFFQ69G5FAV")
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await EndpointServiceStub(channel).GetEndpoint(request)

    error = error_from(raised.value)
    assert error is not None
    assert (error.kind, error.reason) == (Kind.UNAVAILABLE, "NOT_LEADER")
    assert f"the leader is {leader.address}" in error.message


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
async def test_the_other_one_takes_over_when_the_leader_ends(
    members, agent: ScriptedAgent, tenant: Tenant, region: str, how: signal.Signals
) -> None:
    leader, standby = members
    first = await tenant.create(region)
    await tenant.until(first.endpoint_id, Endpoint.STATE_RUNNING)

    leader.signal(how)
    await eventually("the standby to lead", standby.leads)
    second = await create_when_led(tenant, region)
    await tenant.until(second.endpoint_id, Endpoint.STATE_RUNNING)
    leader.process.wait(10)
    leader.start_again()

    assert (await tenant.get(first.endpoint_id)).state == Endpoint.STATE_RUNNING
    assert await placements(tenant, first.endpoint_id) == 1
    assert len(agent.running()) == 2
    assert agent.desired.term == 2


async def test_a_leader_that_was_stopped_and_goes_on_changes_nothing(
    stack: Stack, members, agent: ScriptedAgent, tenant: Tenant, region: str
) -> None:
    leader, standby = members
    first = await tenant.create(region)
    await tenant.until(first.endpoint_id, Endpoint.STATE_RUNNING)

    leader.signal(signal.SIGSTOP)
    await eventually("the standby to lead", standby.leads)
    await eventually("the agent at the new leader", lambda: agent.desired.term == 2)
    second = await create_when_led(tenant, region)
    await tenant.until(second.endpoint_id, Endpoint.STATE_RUNNING)
    await tenant.stop(first.endpoint_id)
    leader.signal(signal.SIGCONT)

    assert leader.process.wait(30) != 0, "it ends, so as to be started again as the one that waits"
    await tenant.until(first.endpoint_id, Endpoint.STATE_STOPPED)
    assert await placements(tenant, first.endpoint_id) == 1
    assert await placements(tenant, second.endpoint_id) == 1
    operator = stack.tenant("operator", "endpoints:read")
    assert await elections(operator) == [1, 2]
    await operator.close()
    await require_reproducible(stack)
