"""Who may call what, and that nobody sees what is another's."""

from typing import Any

import grpc
import pytest
from tests.service.scheduler.conftest import Join
from tests.service.scheduler.scripted_agent import TOKEN as AGENT_TOKEN
from tests.service.scheduler.scripted_agent import refusal
from tests.service.scheduler.stack import Stack, Tenant

from engineshed import ids
from engineshed.api.agent.v1.agent_service_pb2 import ConnectRequest
from engineshed.api.events.v1.event_service_pb2 import ReadEventsRequest
from engineshed.api.scheduler.v1 import endpoint_service_pb2 as pb
from engineshed.api.scheduler.v1 import node_service_pb2 as nodes
from engineshed.api.scheduler.v1.events_pb2 import PlacementDecision, ReplicaPlaced
from engineshed.api.scheduler.v1.scheduling_service_pb2 import (
    ExplainEndpointRequest,
    ReplayDecisionsRequest,
    SimulateChangesRequest,
)
from engineshed.api.scheduler.v1.scheduling_service_pb2_grpc import SchedulingServiceStub
from engineshed.rpc import open_channel
from engineshed.scheduler.access import ACCESS

S = grpc.StatusCode
ENDPOINT = "/engineshed.api.scheduler.v1.EndpointService/"
NODE = "/engineshed.api.scheduler.v1.NodeService/"
SCHEDULING = "/engineshed.api.scheduler.v1.SchedulingService/"
EXPLAIN = f"{SCHEDULING}ExplainEndpoint"
REPLAY = f"{SCHEDULING}ReplayDecisions"
EVENTS = "/engineshed.api.events.v1.EventService/ReadEvents"
CONNECT = "/engineshed.api.agent.v1.AgentService/Connect"

SOMETHING = ids.new(ids.ENDPOINT)
REQUESTS = {
    f"{ENDPOINT}CreateEndpoint": pb.CreateEndpointRequest(name="bot"),
    f"{ENDPOINT}GetEndpoint": pb.GetEndpointRequest(endpoint_id=SOMETHING),
    f"{ENDPOINT}ListEndpoints": pb.ListEndpointsRequest(),
    f"{ENDPOINT}UpdateEndpoint": pb.UpdateEndpointRequest(endpoint_id=SOMETHING),
    f"{ENDPOINT}RollbackEndpoint": pb.RollbackEndpointRequest(endpoint_id=SOMETHING),
    f"{ENDPOINT}StopEndpoint": pb.StopEndpointRequest(endpoint_id=SOMETHING),
    f"{ENDPOINT}RestartEndpoint": pb.RestartEndpointRequest(endpoint_id=SOMETHING),
    f"{ENDPOINT}DeleteEndpoint": pb.DeleteEndpointRequest(endpoint_id=SOMETHING),
    f"{ENDPOINT}EstimateEndpoint": pb.EstimateEndpointRequest(model_name="custom"),
    f"{ENDPOINT}WakeEndpoint": pb.WakeEndpointRequest(endpoint_id=SOMETHING),
    f"{NODE}GetNode": nodes.GetNodeRequest(node_id=ids.new(ids.NODE)),
    f"{NODE}ListNodes": nodes.ListNodesRequest(),
    f"{NODE}CordonNode": nodes.CordonNodeRequest(node_id=ids.new(ids.NODE)),
    f"{NODE}UncordonNode": nodes.UncordonNodeRequest(node_id=ids.new(ids.NODE)),
    f"{NODE}DrainNode": nodes.DrainNodeRequest(node_id=ids.new(ids.NODE)),
    f"{NODE}RemoveNode": nodes.RemoveNodeRequest(node_id=ids.new(ids.NODE)),
    EXPLAIN: ExplainEndpointRequest(endpoint_id=SOMETHING),
    f"{SCHEDULING}SimulateChanges": SimulateChangesRequest(),
    REPLAY: ReplayDecisionsRequest(),
    EVENTS: ReadEventsRequest(),
    CONNECT: ConnectRequest(),
}


async def status(stack: Stack, token: str | None, method: str) -> grpc.StatusCode:
    """Return how a call ends."""
    request = REQUESTS[method]
    if isinstance(request, ConnectRequest):
        return await refusal(stack.address, token, request)
    async with open_channel(stack.address, token, "test") as channel:
        serialize = type(request).SerializeToString
        call: grpc.aio.Call
        if method in (EVENTS, REPLAY):
            call = channel.unary_stream(method, serialize)(request, timeout=30)
        else:
            call = channel.unary_unary(method, serialize)(request, timeout=30)
        code = await call.code()
    assert isinstance(code, grpc.StatusCode)
    return code


def test_every_method_is_in_the_table() -> None:
    assert set(REQUESTS) == set(ACCESS)


@pytest.mark.parametrize("method", REQUESTS)
async def test_nobody_calls_without_a_token(stack: Stack, method: str) -> None:
    assert await status(stack, None, method) == S.UNAUTHENTICATED
    assert await status(stack, "es_unknown", method) == S.UNAUTHENTICATED
    assert await status(stack, "svc_agent_wrong", method) == S.UNAUTHENTICATED


@pytest.mark.parametrize("method", REQUESTS)
async def test_a_token_needs_the_scope(stack: Stack, method: str) -> None:
    org_id = ids.new(ids.ORGANIZATION)
    for scope in ("inference", "artifacts:write", "endpoints:read", "endpoints:write", "operator"):
        code = await status(stack, stack.catalog.token(org_id, scope), method)
        allowed = ACCESS[method].scope == scope
        assert (code != S.PERMISSION_DENIED) == allowed, scope


async def test_only_agents_connect_and_they_do_nothing_else(stack: Stack) -> None:
    for method in REQUESTS:
        code = await status(stack, AGENT_TOKEN, method)
        assert (code == S.PERMISSION_DENIED) == (method != CONNECT)


async def test_a_stranger_finds_nothing(
    stack: Stack, tenant: Tenant, join: Join, region: str
) -> None:
    await join()
    endpoint = await tenant.create(region)
    stranger = stack.tenant("admin", "operator")
    for method, request in REQUESTS.items():
        if "endpoint_id" not in request.DESCRIPTOR.fields_by_name:
            continue
        asked: Any = type(request)()
        asked.CopyFrom(request)
        asked.endpoint_id = endpoint.endpoint_id
        if isinstance(asked, pb.UpdateEndpointRequest):
            asked.endpoint.name = "mine"
            asked.update_mask.paths.append("name")
        stub = SchedulingServiceStub(stranger.channel) if method == EXPLAIN else stranger.endpoints
        call = getattr(stub, method.rpartition("/")[2])(asked)
        assert await call.code() == S.NOT_FOUND, method
    listed = await stranger.endpoints.ListEndpoints(pb.ListEndpointsRequest())
    assert not listed.endpoints
    await stranger.close()


async def test_events_are_shown_to_their_organization_alone(
    stack: Stack, tenant: Tenant, join: Join, region: str
) -> None:
    await join()
    endpoint = await tenant.create(region)
    stream = f"endpoint/{endpoint.endpoint_id}"
    assert {event.org_id for event in await tenant.events()} == {tenant.org_id}
    stranger, operator = stack.tenant(), stack.tenant("operator", "endpoints:read")
    assert await stranger.events(stream) == []
    assert await operator.events(stream)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stranger.events(org_id=tenant.org_id)
    assert refused.value.code() == S.PERMISSION_DENIED
    await stranger.close()
    await operator.close()


async def test_only_operators_read_of_other_nodes_in_events(
    stack: Stack, tenant: Tenant, join: Join, region: str
) -> None:
    agents = [await join(gpus=1), await join(gpus=4)]
    endpoint = await tenant.create(region)
    await tenant.until(endpoint.endpoint_id, pb.Endpoint.STATE_RUNNING)
    stream = f"endpoint/{endpoint.endpoint_id}"
    operator = stack.tenant("operator", "endpoints:read")
    seen = {caller: await _why(caller, stream) for caller in (tenant, operator)}
    await operator.close()
    assert [one.node_id for one in seen[tenant].candidates] == [agents[0].node_id]
    assert not seen[tenant].rejected
    assert {one.node_id for one in seen[operator].candidates} == {one.node_id for one in agents}


async def _why(caller: Tenant, stream: str) -> PlacementDecision:
    """Return the why of the only placement of a stream, as a caller reads it."""
    placed = ReplicaPlaced()
    found = [event for event in await caller.events(stream) if event.data.Unpack(placed)]
    assert len(found) == 1
    return placed.why


async def test_services_may_look_at_any_endpoint(
    stack: Stack, tenant: Tenant, join: Join, region: str
) -> None:
    await join()
    endpoint = await tenant.create(region)
    async with open_channel(stack.address, stack.gateway_token, "gateway") as channel:
        get = channel.unary_unary(
            f"{ENDPOINT}GetEndpoint",
            pb.GetEndpointRequest.SerializeToString,
            pb.GetEndpointResponse.FromString,
        )
        reply = await get(pb.GetEndpointRequest(endpoint_id=endpoint.endpoint_id), timeout=30)
    assert reply.endpoint.org_id == tenant.org_id
