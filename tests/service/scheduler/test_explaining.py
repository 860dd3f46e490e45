"""ExplainEndpoint over gRPC: a tenant's view, that of one who operates the platform too."""

from tests.service.scheduler.conftest import Join
from tests.service.scheduler.stack import Stack, Tenant
from tests.service.scheduler.test_endpoints import refused

from engineshed.api.scheduler.v1 import endpoint_service_pb2 as endpoints
from engineshed.api.scheduler.v1 import scheduling_service_pb2 as pb
from engineshed.api.scheduler.v1.scheduling_service_pb2_grpc import SchedulingServiceStub

E = endpoints.Endpoint


async def explained(tenant: Tenant, endpoint_id: str) -> pb.ExplainEndpointResponse:
    request = pb.ExplainEndpointRequest(endpoint_id=endpoint_id)
    answer: pb.ExplainEndpointResponse = await SchedulingServiceStub(
        tenant.channel
    ).ExplainEndpoint(request, wait_for_ready=True)
    return answer


async def test_a_placement_is_explained_as_it_was_recorded(
    stack: Stack, tenant: Tenant, join: Join, region: str
) -> None:
    agents = [await join(gpus=1), await join(gpus=4)]
    endpoint_id = (await tenant.create(region)).endpoint_id
    running = await tenant.until(endpoint_id, E.STATE_RUNNING)

    mine = await explained(tenant, endpoint_id)
    operator = Tenant(stack, tenant.org_id, ("operator", "endpoints:read"))
    whole = await explained(operator, endpoint_id)
    await operator.close()

    (placement,) = mine.placements
    assert placement.replica_id == running.replicas[0].replica_id
    assert placement.node_id == agents[0].node_id, "the one with the fewest GPUs left over"
    assert [one.node_id for one in placement.why.candidates] == [placement.node_id]
    assert placement.candidates == 2
    assert not placement.why.rejected
    assert not mine.HasField("wait")
    (placement,) = whole.placements
    assert [one.node_id for one in placement.why.candidates] == [one.node_id for one in agents]
    assert placement.why.rejected.keys() <= {"region"}, "it was compared with both of its region"


async def test_what_waits_is_told_for_what_and_its_place(
    stack: Stack, tenant: Tenant, join: Join, region: str
) -> None:
    agent = await join(gpus=2)
    running = await tenant.create(region)
    await tenant.until(running.endpoint_id, E.STATE_RUNNING)
    first = await tenant.create(region, gpu_count=2)
    second = await tenant.create(region, gpu_count=2)
    await tenant.until(second.endpoint_id, E.STATE_QUEUED)

    mine = (await explained(tenant, second.endpoint_id)).wait
    operator = Tenant(stack, tenant.org_id, ("operator", "endpoints:read"))
    whole = (await explained(operator, first.endpoint_id)).wait
    await operator.close()

    assert (mine.missing_replicas, mine.queue_position) == (1, 2)
    assert mine.reason == f"waiting for 2 free GPUs on one cpu node in {region}"
    assert (mine.queue_length, mine.nominated_node_id, dict(mine.rejected)) == (0, "", {})
    assert (whole.queue_position, whole.queue_length) == (1, 2)
    assert whole.nominated_node_id == agent.node_id
    assert whole.rejected["gpus_taken"] == 1


async def test_another_organizations_endpoint_is_not_explained(
    stack: Stack, tenant: Tenant, join: Join, region: str
) -> None:
    await join()
    endpoint_id = (await tenant.create(region)).endpoint_id
    stranger = stack.tenant()
    request = pb.ExplainEndpointRequest(endpoint_id=endpoint_id)
    error = await refused(SchedulingServiceStub(stranger.channel).ExplainEndpoint(request))
    await stranger.close()

    assert error.reason == "ENDPOINT_NOT_FOUND"
