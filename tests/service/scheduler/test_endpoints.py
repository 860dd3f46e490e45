"""The life of an endpoint over gRPC, against a real scheduler with a scripted agent."""

import asyncio
from datetime import UTC, datetime

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from tests.service.scheduler.conftest import Join
from tests.service.scheduler.stack import Stack, Tenant, eventually

from engineshed.api.catalog.v1.template_service_pb2 import Flavor, Template
from engineshed.api.scheduler.v1 import endpoint_service_pb2 as pb
from engineshed.rpc import RemoteError, error_from
from engineshed.runtime import to_timestamp

E = pb.Endpoint
R = pb.Replica


async def refused(call: object) -> RemoteError:
    """Return why a call was refused."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call  # type: ignore[misc]  # a call of a stub
    error = error_from(caught.value)
    assert error is not None, caught.value
    return error


def updating(
    endpoint_id: str, *paths: str, etag: str = "", **fields: object
) -> pb.UpdateEndpointRequest:
    return pb.UpdateEndpointRequest(
        endpoint_id=endpoint_id,
        endpoint=pb.EndpointUpdate(**fields),  # type: ignore[arg-type]  # protobuf checks them
        update_mask=FieldMask(paths=paths),
        etag=etag,
    )


async def test_a_checkpoint_is_served(tenant: Tenant, join: Join, region: str) -> None:
    agent = await join()
    created = await tenant.create(region, name="Support bot", description="for support")
    assert created.state in (E.STATE_QUEUED, E.STATE_PROVISIONING)
    assert created.routing_key.startswith("support-bot-")

    running = await tenant.until(created.endpoint_id, E.STATE_RUNNING)
    (replica,) = running.replicas
    assert (replica.state, replica.node_id, list(replica.gpus)) == (
        R.STATE_READY,
        agent.node_id,
        [0],
    )
    assert (replica.engine_digest, replica.engine_backend) == ("sha256:engine", "torch")
    assert running.ever_ready
    assert running.model_name == "custom"
    assert running.etag == created.etag
    assert await tenant.history(created.endpoint_id) == [
        "EndpointCreated",
        "ReplicaPlaced",
        "EndpointProvisioning",
        "ReplicaFetching",
        "ReplicaBuilding",
        "ReplicaLoading",
        "ReplicaReady",
        "EndpointRunning",
    ]
    (wanted,) = agent.desired.replicas
    assert wanted.checkpoint_digest == running.checkpoint_digest
    assert wanted.routing_key == running.routing_key


async def test_stop_restart_and_delete(tenant: Tenant, join: Join, region: str) -> None:
    agent = await join()
    endpoint_id = (await tenant.create(region)).endpoint_id
    await tenant.until(endpoint_id, E.STATE_RUNNING)

    assert (await tenant.stop(endpoint_id)).state == E.STATE_STOPPING
    stopped = await tenant.until(endpoint_id, E.STATE_STOPPED)
    assert not stopped.enabled
    assert (await tenant.stop(endpoint_id)).version == stopped.version
    await tenant.restart(endpoint_id)
    await tenant.until(endpoint_id, E.STATE_RUNNING)
    assert len(agent.running()) == 1

    assert (await tenant.delete(endpoint_id)).state == E.STATE_TERMINATED
    error = await refused(
        tenant.endpoints.RestartEndpoint(pb.RestartEndpointRequest(endpoint_id=endpoint_id))
    )
    assert error.reason == "WRONG_STATE"
    assert "stopping or stopped" in error.message
    assert (await tenant.get(endpoint_id)).state == E.STATE_TERMINATED
    assert (await tenant.delete(endpoint_id)).state == E.STATE_TERMINATED


async def test_one_that_does_not_fit_waits_for_its_turn(
    tenant: Tenant, join: Join, region: str
) -> None:
    await join(gpus=2)
    first = await tenant.create(region, gpu_count=2)
    await tenant.until(first.endpoint_id, E.STATE_RUNNING)
    second = await tenant.create(region, gpu_count=2)
    third = await tenant.create(region, gpu_count=1)

    queued = await tenant.until(second.endpoint_id, E.STATE_QUEUED)
    assert queued.queue_position == 1
    assert (await tenant.get(third.endpoint_id)).queue_position == 2

    await tenant.delete(first.endpoint_id)
    await tenant.until(second.endpoint_id, E.STATE_RUNNING)
    waiting = await tenant.get(third.endpoint_id)
    assert (waiting.state, waiting.queue_position) == (E.STATE_QUEUED, 1)
    assert waiting.state_reason == f"waiting for a free GPU on a cpu node in {region}"


async def test_one_that_is_placed_in_part_says_what_is_missing(
    tenant: Tenant, join: Join, region: str
) -> None:
    await join(gpus=3)
    other = await tenant.create(region, gpu_count=2)
    await tenant.until(other.endpoint_id, E.STATE_RUNNING)
    two = pb.Scaling(min_replicas=2, max_replicas=2)
    endpoint_id = (await tenant.create(region, scaling=two)).endpoint_id

    running = await tenant.until(endpoint_id, E.STATE_RUNNING)
    assert running.degraded
    assert running.state_reason == (
        f"1 of 2 replicas is not placed: waiting for a free GPU on a cpu node in {region}"
    )
    await tenant.delete(other.endpoint_id)

    async def whole() -> bool:
        endpoint = await tenant.get(endpoint_id)
        return not endpoint.degraded and endpoint.state_reason == ""

    await eventually("both to be ready", whole)


async def test_only_what_the_mask_names_is_changed(tenant: Tenant, join: Join, region: str) -> None:
    await join()
    created = await tenant.create(region, name="old", description="text")
    request = updating(created.endpoint_id, "name", name="new", etag=created.etag)
    changed = (await tenant.endpoints.UpdateEndpoint(request)).endpoint
    assert (changed.name, changed.description) == ("new", "text")
    assert changed.routing_key == created.routing_key
    assert changed.version == created.version + 1

    assert (await refused(tenant.endpoints.UpdateEndpoint(request))).reason == "ETAG_MISMATCH"


async def test_scaling(tenant: Tenant, join: Join, region: str) -> None:
    agent = await join()
    endpoint_id = (await tenant.create(region)).endpoint_id
    await tenant.until(endpoint_id, E.STATE_RUNNING)
    more = pb.Scaling(min_replicas=3, max_replicas=3)
    request = updating(endpoint_id, "scaling", scaling=more)
    assert (await tenant.endpoints.UpdateEndpoint(request)).endpoint.degraded

    async def running(count: int) -> None:
        async with asyncio.timeout(30):
            while len(agent.running()) != count or (await tenant.get(endpoint_id)).degraded:
                await asyncio.sleep(0.02)

    await running(3)
    request = updating(endpoint_id, "scaling.min_replicas", scaling=pb.Scaling(min_replicas=1))
    await tenant.endpoints.UpdateEndpoint(request)
    await running(1)


@pytest.mark.parametrize(
    ("path", "reason", "field"),
    [
        ("region", "IMMUTABLE_FIELD", "region"),
        ("flavor_name", "IMMUTABLE_FIELD", "flavor_name"),
        ("colour", "INVALID_FIELD", "update_mask"),
        ("scaling.max_replicas", "INVALID_FIELD", "scaling.max_replicas"),
        ("name", "INVALID_FIELD", "name"),
    ],
)
async def test_updates_that_are_refused_name_the_field(
    tenant: Tenant, join: Join, region: str, path: str, reason: str, field: str
) -> None:
    await join()
    endpoint_id = (await tenant.create(region)).endpoint_id
    error = await refused(tenant.endpoints.UpdateEndpoint(updating(endpoint_id, path)))
    assert error.reason == reason
    assert [one.field for one in error.fields] == [field]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"gpu_type": "b200"}, "UNKNOWN_GPU_TYPE"),
        ({"region": "nowhere"}, "UNKNOWN_REGION"),
        ({"gpu_count": 9}, "INVALID_FIELD"),
        ({"gpu_count": 5}, "EXCEEDS_FLEET"),
        ({"scaling": pb.Scaling(min_replicas=5, max_replicas=5)}, "EXCEEDS_FLEET"),
        ({"scaling": pb.Scaling(min_replicas=2, max_replicas=1)}, "INVALID_FIELD"),
        ({"name": ""}, "INVALID_FIELD"),
        ({"model_name": "no/such"}, "INVALID_FIELD"),
        ({"checkpoint_id": "ckpt_00000000000000000000000000"}, "CHECKPOINT_NOT_FOUND"),
        ({"serving": pb.ServingParameters(quantization="fp8")}, "INVALID_FIELD"),
    ],
)
async def test_what_cannot_be_had_is_refused_and_holds_nothing(
    stack: Stack, tenant: Tenant, join: Join, region: str, fields: dict[str, object], reason: str
) -> None:
    await join(gpus=4)
    error = await refused(tenant.create(**{"region": region, **fields}))  # type: ignore[arg-type]  # fields of the request
    assert error.reason == reason
    assert not (await tenant.endpoints.ListEndpoints(pb.ListEndpointsRequest())).endpoints
    mine = {
        one for one, found in stack.catalog.checkpoints.items() if found.org_id == tenant.org_id
    }
    assert not [held for held, _ in stack.catalog.holds if held in mine]


async def test_templates_decide_what_is_valid(
    stack: Stack, tenant: Tenant, join: Join, region: str
) -> None:
    await join()
    name = f"acme/{region}"
    checkpoint_id = stack.catalog.checkpoint("_platform")
    flavors = [Flavor(flavor_name="base", gpu_types=["cpu"], gpu_counts=[1, 2], max_context=2048)]
    stack.catalog.templates[name] = Template(
        model_name=name, checkpoint_id=checkpoint_id, flavors=flavors
    )
    request = pb.CreateEndpointRequest(name="bot", model_name=name, region=region)
    created = (await tenant.endpoints.CreateEndpoint(request)).endpoint
    assert (created.checkpoint_id, created.flavor_name) == (checkpoint_id, "base")
    assert created.serving.max_context == 2048

    request.gpu_count = 3
    assert (await refused(tenant.endpoints.CreateEndpoint(request))).reason == "NOT_IN_TEMPLATE"


async def test_a_repeated_request_returns_the_first_result(
    stack: Stack, tenant: Tenant, join: Join, region: str
) -> None:
    await join()
    request = pb.CreateEndpointRequest(
        name="bot",
        region=region,
        checkpoint_id=stack.catalog.checkpoint(tenant.org_id),
        request_id="create-1",
    )
    replies = await asyncio.gather(*(tenant.endpoints.CreateEndpoint(request) for _ in range(5)))
    assert len({reply.endpoint.endpoint_id for reply in replies}) == 1
    endpoint_id = replies[0].endpoint.endpoint_id
    assert stack.catalog.held_for(tenant.org_id) == {endpoint_id}, "the others gave theirs back"

    await tenant.until(endpoint_id, E.STATE_RUNNING)
    again = (await tenant.endpoints.CreateEndpoint(request)).endpoint
    for answer in (again, replies[0].endpoint):
        answer.ClearField("queue_position")  # it is as of the moment of the answer
    assert again == replies[0].endpoint
    other = pb.CreateEndpointRequest()
    other.CopyFrom(request)
    other.name = "another"
    assert (await refused(tenant.endpoints.CreateEndpoint(other))).reason == "REQUEST_ID_REUSED"


async def test_an_update_sent_twice_at_once_does_not_meet_its_own_change(
    tenant: Tenant, join: Join, region: str
) -> None:
    await join()
    created = await tenant.create(region)
    request = updating(created.endpoint_id, "name", name="new", etag=created.etag)
    request.request_id = "rename-1"
    replies = await asyncio.gather(*(tenant.endpoints.UpdateEndpoint(request) for _ in range(5)))
    assert {reply.endpoint.version for reply in replies} == {created.version + 1}


async def test_a_repeated_stop_does_not_stop_what_was_restarted(
    tenant: Tenant, join: Join, region: str
) -> None:
    await join()
    endpoint_id = (await tenant.create(region)).endpoint_id
    await tenant.until(endpoint_id, E.STATE_RUNNING)
    stop = pb.StopEndpointRequest(endpoint_id=endpoint_id, request_id="stop-1")
    first = (await tenant.endpoints.StopEndpoint(stop)).endpoint
    await tenant.until(endpoint_id, E.STATE_STOPPED)
    await tenant.restart(endpoint_id)
    await tenant.until(endpoint_id, E.STATE_RUNNING)

    again = (await tenant.endpoints.StopEndpoint(stop)).endpoint
    assert (again.state, again.version) == (first.state, first.version)
    assert (await tenant.get(endpoint_id)).state == E.STATE_RUNNING


async def test_the_past_can_be_read(tenant: Tenant, join: Join, region: str) -> None:
    await join()
    before = datetime.now(UTC)
    endpoint_id = (await tenant.create(region)).endpoint_id
    running = await tenant.until(endpoint_id, E.STATE_RUNNING)
    await tenant.stop(endpoint_id)
    await tenant.until(endpoint_id, E.STATE_STOPPED)

    request = pb.GetEndpointRequest(endpoint_id=endpoint_id, as_of=running.update_time)
    past = (await tenant.endpoints.GetEndpoint(request)).endpoint
    assert (past.state, len(past.replicas)) == (E.STATE_RUNNING, 1)
    assert past.replicas[0].state == R.STATE_READY
    request = pb.GetEndpointRequest(endpoint_id=endpoint_id, as_of=to_timestamp(before))
    assert (await refused(tenant.endpoints.GetEndpoint(request))).reason == "ENDPOINT_NOT_FOUND"


async def test_lists_are_paged_newest_first(tenant: Tenant, join: Join, region: str) -> None:
    await join()
    created = [(await tenant.create(region)).endpoint_id for _ in range(5)]
    await tenant.delete(created[2])
    expected = [one for one in reversed(created) if one != created[2]]

    found: list[str] = []
    token = ""
    while True:
        request = pb.ListEndpointsRequest(page_size=3, page_token=token)
        page = await tenant.endpoints.ListEndpoints(request)
        found += [endpoint.endpoint_id for endpoint in page.endpoints]
        token = page.next_page_token
        if not token:
            break
    assert found == expected
    everything = pb.ListEndpointsRequest(show_terminated=True)
    assert len((await tenant.endpoints.ListEndpoints(everything)).endpoints) == 5
    made_up = pb.ListEndpointsRequest(page_token="made up")
    assert (await refused(tenant.endpoints.ListEndpoints(made_up))).fields[0].field == "page_token"
