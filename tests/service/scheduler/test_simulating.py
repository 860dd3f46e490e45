"""What a scheduler says would happen, and that it happens then."""

from collections.abc import AsyncIterator

import pytest
from tests.service.scheduler.conftest import Join
from tests.service.scheduler.stack import Stack, Tenant, eventually
from tests.service.scheduler.test_endpoints import refused
from tests.service.scheduler.test_nodes import Operator
from tests.service.scheduler.test_scaling import scaling

from engineshed import ids
from engineshed.api.scheduler.v1 import endpoint_service_pb2 as endpoints
from engineshed.api.scheduler.v1 import scheduling_service_pb2 as pb
from engineshed.api.scheduler.v1.node_service_pb2 import NodeInventory
from engineshed.api.scheduler.v1.scheduling_service_pb2_grpc import SchedulingServiceStub

E = endpoints.Endpoint
R = endpoints.Replica


@pytest.fixture
async def operator(stack: Stack) -> AsyncIterator[Operator]:
    tenant = stack.tenant("operator", "endpoints:read")
    yield Operator(tenant)
    await tenant.close()


async def simulated(operator: Operator, *changes: pb.SimulatedChange) -> pb.SimulateChangesResponse:
    stub = SchedulingServiceStub(operator.tenant.channel)
    request = pb.SimulateChangesRequest(changes=changes)
    answer: pb.SimulateChangesResponse = await stub.SimulateChanges(request, wait_for_ready=True)
    return answer


async def places(tenant: Tenant, endpoint_ids: list[str]) -> dict[str, list[str]]:
    """Return the nodes of each endpoint's ready replicas."""
    found = [await tenant.get(endpoint_id) for endpoint_id in endpoint_ids]
    return {
        endpoint.endpoint_id: sorted(
            one.node_id for one in endpoint.replicas if one.state == R.STATE_READY
        )
        for endpoint in found
    }


@pytest.mark.usefixtures("own_stack")  # nothing of other tests may wait
async def test_a_drain_ends_as_it_was_simulated(
    tenant: Tenant, operator: Operator, join: Join, region: str
) -> None:
    agents = [await join(gpus=gpus) for gpus in (4, 3, 2)]
    created = [
        await tenant.create(region, gpu_count=gpus, scaling=scaling(count, count))
        for gpus, count in ((1, 2), (2, 1), (1, 1), (1, 1))
    ]
    endpoint_ids = [endpoint.endpoint_id for endpoint in created]
    for endpoint_id in endpoint_ids:
        await tenant.until(endpoint_id, E.STATE_RUNNING)

    async def all_ready() -> bool:
        return sum(map(len, (await places(tenant, endpoint_ids)).values())) == 5

    await eventually("all replicas", all_ready)
    before = await places(tenant, endpoint_ids)
    drained = before[endpoint_ids[0]][0]

    told = await simulated(operator, pb.SimulatedChange(drain_node_id=drained))

    assert told.settled
    assert not told.waits
    expected = {endpoint_id: list(nodes) for endpoint_id, nodes in before.items()}
    for move in told.moves:
        assert (move.org_id, move.reason) == (tenant.org_id, "its node is being drained")
        expected[move.endpoint_id].remove(move.from_node_id)
        expected[move.endpoint_id].append(move.to_node_id)
    assert told.moves
    assert await places(tenant, endpoint_ids) == before, "asking moves nothing"
    await operator.drain(drained)
    await operator.until_empty(drained)
    assert await places(tenant, endpoint_ids) == {
        endpoint_id: sorted(nodes) for endpoint_id, nodes in expected.items()
    }
    free = {node.node_id: node.gpu_count - node.taken_after for node in told.nodes}
    for agent in agents:
        gpus = (await operator.get(agent.node_id)).gpus
        assert sum(not gpu.replica_id for gpu in gpus) == free[agent.node_id]


async def test_who_waits_is_told_who_would_not_with_another_node(
    tenant: Tenant, operator: Operator, join: Join, region: str
) -> None:
    agent = await join(gpus=1)
    running = await tenant.create(region)
    await tenant.until(running.endpoint_id, E.STATE_RUNNING)
    waiting = await tenant.create(region, gpu_count=1, name="second")
    await tenant.until(waiting.endpoint_id, E.STATE_QUEUED)
    inventory = NodeInventory(region=region, gpu_type="cpu", gpu_count=2)
    bounds = pb.ScaleEndpoint(endpoint_id=running.endpoint_id, min_replicas=3)

    told = await simulated(
        operator,
        pb.SimulatedChange(add_nodes=pb.AddNodes(inventory=inventory, count=1)),
        pb.SimulatedChange(scale_endpoint=bounds),
    )

    (added,) = [node for node in told.nodes if node.hostname == "added 1"]
    assert (added.gpu_type, added.gpu_count, added.taken_after) == ("cpu", 2, 2)
    assert [(one.endpoint_id, one.from_node_id, one.to_node_id) for one in told.moves] == sorted(
        (one.endpoint_id, "", added.node_id) for one in (running, waiting)
    )
    mine = [one for one in told.waits if one.org_id == tenant.org_id]
    assert [(one.endpoint_id, one.missing_replicas) for one in mine] == [(running.endpoint_id, 1)]
    assert not mine[0].waits_now
    assert (await tenant.get(waiting.endpoint_id)).state == E.STATE_QUEUED
    assert agent.running() == [
        one.replica_id for one in (await tenant.get(running.endpoint_id)).replicas
    ]


async def test_what_is_not_there_cannot_be_simulated(operator: Operator) -> None:
    stub = SchedulingServiceStub(operator.tenant.channel)

    async def refusal(change: pb.SimulatedChange) -> str:
        call = stub.SimulateChanges(pb.SimulateChangesRequest(changes=[change]))
        return (await refused(call)).reason

    assert await refusal(pb.SimulatedChange(drain_node_id=ids.new(ids.NODE))) == "NODE_NOT_FOUND"
    bounds = pb.ScaleEndpoint(endpoint_id=ids.new(ids.ENDPOINT), max_replicas=2)
    assert await refusal(pb.SimulatedChange(scale_endpoint=bounds)) == "ENDPOINT_NOT_FOUND"
