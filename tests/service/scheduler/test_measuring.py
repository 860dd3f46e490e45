"""What engines were seen to take of their GPUs, with a real scheduler and its database."""

from collections.abc import AsyncIterator

import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from tests.service.eventstore.servers import ON_EACH_DATABASE
from tests.service.scheduler.conftest import Join
from tests.service.scheduler.scripted_agent import ScriptedAgent
from tests.service.scheduler.stack import Stack, Tenant, eventually
from tests.service.scheduler.test_endpoints import refused

from engineshed import ids
from engineshed.api.scheduler.v1 import endpoint_service_pb2 as pb
from engineshed.api.scheduler.v1.events_pb2 import ReplicaReady

GIB = 2**30
LONG = pb.ServingParameters(max_context=30_000)
SHORTER = pb.ServingParameters(max_context=29_000)

E = pb.Endpoint
R = pb.Replica


@pytest.fixture
async def agent(join: Join) -> ScriptedAgent:
    agent = await join(gpu_type="a10", backends=("tensorrt_llm",), simulated=True)
    agent.willing = False
    return agent


@pytest.fixture
async def another(stack: Stack) -> AsyncIterator[Tenant]:
    tenant = stack.tenant()
    yield tenant
    await tenant.close()


async def run_once(tenant: Tenant, agent: ScriptedAgent, endpoint: pb.Endpoint, size: int) -> str:
    """Let an endpoint's replica be ready and say what its engine takes; return its id."""

    async def placed() -> str:
        replicas = (await tenant.get(endpoint.endpoint_id)).replicas
        return replicas[0].replica_id if replicas else ""

    replica_id: str = await eventually("a replica", placed)
    await eventually("the replica", lambda: replica_id in agent.replicas)
    agent.set(replica_id, R.STATE_READY, engine_memory_bytes=size, engine_backend="tensorrt_llm")
    await tenant.until(endpoint.endpoint_id, E.STATE_RUNNING)
    return replica_id


@ON_EACH_DATABASE
async def test_what_was_measured_counts_for_just_that_and_for_its_organization_only(
    own_stack: Stack, tenant: Tenant, another: Tenant, agent: ScriptedAgent, region: str
) -> None:
    model = own_stack.catalog.large_checkpoint(ids.PLATFORM)
    first = await tenant.create(region, checkpoint_id=model, serving=LONG)
    await run_once(tenant, agent, first, 20 * GIB)

    again = pb.CreateEndpointRequest(name="bot", region=region, checkpoint_id=model, serving=LONG)
    refusal = await refused(tenant.endpoints.CreateEndpoint(again))
    assert refusal.reason == "DOES_NOT_FIT"
    assert "the engine with its weights was measured to take 20.0 GiB" in refusal.message
    other = await tenant.create(region, checkpoint_id=model, serving=SHORTER)
    update = pb.UpdateEndpointRequest(
        endpoint_id=other.endpoint_id,
        endpoint=pb.EndpointUpdate(serving=LONG),
        update_mask=FieldMask(paths=["serving.max_context"]),
    )
    assert (await refused(tenant.endpoints.UpdateEndpoint(update))).reason == "DOES_NOT_FIT"
    await another.create(region, checkpoint_id=model, serving=LONG)

    asked = pb.EstimateEndpointRequest(region=region, checkpoint_id=model, serving=LONG)
    found = (await tenant.endpoints.EstimateEndpoint(asked)).estimate
    assert (found.fits, found.measured, found.reserved_bytes) == (False, True, 0)
    assert found.weight_bytes + found.activation_bytes == 20 * GIB
    assert not (await another.endpoints.EstimateEndpoint(asked)).estimate.measured

    own_stack.restart()
    later = tenant.endpoints.CreateEndpoint(again, wait_for_ready=True)
    assert (await refused(later)).reason == "DOES_NOT_FIT"


async def test_the_last_measurement_counts_and_nonsense_is_none(
    stack: Stack, tenant: Tenant, agent: ScriptedAgent, region: str
) -> None:
    model = stack.catalog.large_checkpoint(tenant.org_id)
    asked = pb.EstimateEndpointRequest(region=region, checkpoint_id=model, serving=LONG)

    async def taken() -> tuple[int, bool]:
        found = (await tenant.endpoints.EstimateEndpoint(asked)).estimate
        taken = found.weight_bytes + found.activation_bytes + found.reserved_bytes
        return (taken if found.measured else 0), found.fits

    waiting = [await tenant.create(region, checkpoint_id=model, serving=LONG) for _ in range(3)]
    await run_once(tenant, agent, waiting[0], 2**64 - 1)
    assert await taken() == (0, True)
    await run_once(tenant, agent, waiting[1], 20 * GIB)
    assert await taken() == (20 * GIB, False)
    replica_id = await run_once(tenant, agent, waiting[2], 17 * GIB)
    assert await taken() == (17 * GIB, True)

    events = await tenant.events(f"endpoint/{waiting[2].endpoint_id}")
    (ready,) = [event for event in events if event.data.Is(ReplicaReady.DESCRIPTOR)]
    said = ReplicaReady()
    ready.data.Unpack(said)
    assert (said.replica_id, said.engine_memory_bytes) == (replica_id, 17 * GIB)
