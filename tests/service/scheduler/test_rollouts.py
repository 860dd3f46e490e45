"""Changing what an endpoint's replicas run, over gRPC, with a real scheduler and its holds."""

from google.protobuf.field_mask_pb2 import FieldMask
from tests.service.scheduler.conftest import Join
from tests.service.scheduler.scripted_agent import ScriptedAgent
from tests.service.scheduler.stack import Stack, Tenant, eventually
from tests.service.scheduler.test_endpoints import refused

from engineshed.api.catalog.v1.checkpoint_service_pb2 import Checkpoint
from engineshed.api.scheduler.v1 import endpoint_service_pb2 as pb

E = pb.Endpoint
R = pb.Replica


def redeploying(endpoint_id: str, **fields: object) -> pb.UpdateEndpointRequest:
    return pb.UpdateEndpointRequest(
        endpoint_id=endpoint_id,
        endpoint=pb.EndpointUpdate(**fields),  # type: ignore[arg-type]  # protobuf checks them
        update_mask=FieldMask(paths=fields),
    )


async def running(tenant: Tenant, region: str) -> pb.Endpoint:
    created = await tenant.create(region)
    return await tenant.until(created.endpoint_id, E.STATE_RUNNING)


async def rolled_out(tenant: Tenant, endpoint_id: str) -> pb.Endpoint:
    """Wait until no rollout is under way."""

    async def over() -> pb.Endpoint | None:
        endpoint = await tenant.get(endpoint_id)
        return None if endpoint.HasField("rollout") else endpoint

    endpoint: pb.Endpoint = await eventually("the end of the rollout", over)
    return endpoint


def held(stack: Stack, endpoint_id: str) -> set[str]:
    return {checkpoint for checkpoint, holder in stack.catalog.holds if holder == endpoint_id}


async def new_replica(agent: ScriptedAgent, old: str) -> str:
    """Wait for a replica that is not `old`; return its id."""
    found = await eventually("a new replica", lambda: [one for one in agent.replicas if one != old])
    return str(found[0])


async def test_another_checkpoint_takes_the_place_of_the_first(
    stack: Stack, tenant: Tenant, join: Join, region: str
) -> None:
    agent = await join()
    before = await running(tenant, region)
    better = tenant.catalog.checkpoint(tenant.org_id)
    agent.willing = False

    request = redeploying(before.endpoint_id, checkpoint_id=better)
    changed = (await tenant.endpoints.UpdateEndpoint(request)).endpoint

    assert changed.checkpoint_id == better
    assert changed.rollout.state == pb.Rollout.STATE_IN_PROGRESS
    assert changed.rollout.previous.checkpoint_id == before.checkpoint_id
    assert held(stack, before.endpoint_id) == {before.checkpoint_id, better}
    new = await new_replica(agent, before.replicas[0].replica_id)
    (desired,) = [one for one in agent.desired.replicas if one.replica_id == new]
    assert desired.checkpoint_digest == f"sha256:{better}"
    agent.willing = True
    after = await rolled_out(tenant, before.endpoint_id)

    assert after.state == E.STATE_RUNNING
    (replica,) = [one for one in after.replicas if one.state == R.STATE_READY]
    assert (replica.replica_id, replica.deployment) == (new, after.deployment)
    await eventually("one hold", lambda: held(stack, before.endpoint_id) == {better})
    history = await tenant.history(before.endpoint_id)
    assert history[-1] == "EndpointRolledOut"
    assert history.index("ReplicaDraining") > history.index("EndpointRedeployed")


async def test_a_rollout_that_fails_shows_why_and_can_be_rolled_back(
    stack: Stack, tenant: Tenant, join: Join, region: str
) -> None:
    agent = await join()
    before = await running(tenant, region)
    old = before.replicas[0].replica_id
    agent.willing = False
    worse = tenant.catalog.checkpoint(tenant.org_id)
    request = redeploying(before.endpoint_id, checkpoint_id=worse)
    await tenant.endpoints.UpdateEndpoint(request)
    agent.set(await new_replica(agent, old), R.STATE_FAILED, code="DOES_NOT_FIT", reason="why")

    async def failed() -> pb.Endpoint | None:
        endpoint = await tenant.get(before.endpoint_id)
        return endpoint if endpoint.rollout.state == pb.Rollout.STATE_FAILED else None

    endpoint = await eventually("the failure", failed)
    assert endpoint.rollout.reason == "DOES_NOT_FIT: why"
    assert endpoint.state == E.STATE_RUNNING
    assert not endpoint.degraded
    back = pb.RollbackEndpointRequest(endpoint_id=before.endpoint_id)
    endpoint = (await tenant.endpoints.RollbackEndpoint(back)).endpoint

    assert endpoint.checkpoint_id == before.checkpoint_id
    assert not endpoint.HasField("rollout")
    assert agent.replicas[old].state == R.STATE_READY
    await eventually("one hold", lambda: held(stack, before.endpoint_id) == {before.checkpoint_id})
    assert (await refused(tenant.endpoints.RollbackEndpoint(back))).reason == "NOTHING_TO_ROLL_BACK"


async def test_serving_parameters_change_field_by_field(
    tenant: Tenant, join: Join, region: str
) -> None:
    agent = await join()
    before = await running(tenant, region)
    request = pb.UpdateEndpointRequest(
        endpoint_id=before.endpoint_id,
        endpoint=pb.EndpointUpdate(serving=pb.ServingParameters(max_context=512)),
        update_mask=FieldMask(paths=["serving.max_context"]),
    )
    await tenant.endpoints.UpdateEndpoint(request)
    request.endpoint.serving.precision = "float16"
    request.update_mask.paths[:] = ["serving.precision"]
    await tenant.endpoints.UpdateEndpoint(request)
    request.endpoint.serving.max_batch_size = 8
    request.endpoint.serving.kv_cache_fraction = 0.5
    request.update_mask.paths[:] = ["serving.max_batch_size", "serving.kv_cache_fraction"]
    await tenant.endpoints.UpdateEndpoint(request)
    after = await rolled_out(tenant, before.endpoint_id)

    assert after.serving == pb.ServingParameters(
        max_context=512, precision="float16", max_batch_size=8, kv_cache_fraction=0.5
    )
    (replica,) = [one for one in agent.desired.replicas if one.goal == one.GOAL_RUN]
    assert replica.serving == after.serving


async def test_what_can_never_be_had_changes_nothing(
    stack: Stack, tenant: Tenant, join: Join, region: str
) -> None:
    await join(gpus=2)
    before = await running(tenant, region)
    registering = tenant.catalog.checkpoint(tenant.org_id, Checkpoint.STATE_REGISTERING)
    refusals: dict[str, dict[str, object]] = {
        "UNKNOWN_GPU_TYPE": {"gpu_type": "h100-sxm"},
        "EXCEEDS_FLEET": {"gpu_count": 4},
        "CHECKPOINT_NOT_READY": {"checkpoint_id": registering},
        "CHECKPOINT_NOT_FOUND": {"checkpoint_id": "ckpt_" + "0" * 26},
        "INVALID_FIELD": {"checkpoint_id": ""},
    }
    for reason, fields in refusals.items():
        request = redeploying(before.endpoint_id, **fields)
        assert (await refused(tenant.endpoints.UpdateEndpoint(request))).reason == reason

    assert (await tenant.get(before.endpoint_id)).version == before.version
    await eventually("one hold", lambda: held(stack, before.endpoint_id) == {before.checkpoint_id})


async def test_a_hold_of_a_change_that_was_never_recorded_is_given_back(
    own_stack: Stack, tenant: Tenant, join: Join, region: str
) -> None:
    agent = await join()
    endpoint = await running(tenant, region)
    agent.willing = False
    better, further = (tenant.catalog.checkpoint(tenant.org_id) for _ in range(2))
    request = redeploying(endpoint.endpoint_id, checkpoint_id=better)
    await tenant.endpoints.UpdateEndpoint(request)
    own_stack.catalog.on_hold = lambda taken: own_stack.kill() if taken == further else None
    request = redeploying(endpoint.endpoint_id, checkpoint_id=further)
    update = tenant.endpoints.UpdateEndpoint(request)
    await eventually("its death", lambda: own_stack.process and own_stack.process.returncode)
    update.cancel()
    assert further in held(own_stack, endpoint.endpoint_id)

    own_stack.start()
    await eventually(
        "two holds",
        lambda: held(own_stack, endpoint.endpoint_id) == {endpoint.checkpoint_id, better},
    )
    agent.willing = True
    await rolled_out(tenant, endpoint.endpoint_id)
    await eventually("one hold", lambda: held(own_stack, endpoint.endpoint_id) == {better})


async def test_a_deleted_endpoint_gives_both_holds_back(
    stack: Stack, tenant: Tenant, join: Join, region: str
) -> None:
    agent = await join()
    endpoint = await running(tenant, region)
    agent.willing = False
    better = tenant.catalog.checkpoint(tenant.org_id)
    request = redeploying(endpoint.endpoint_id, checkpoint_id=better)
    await tenant.endpoints.UpdateEndpoint(request)
    await tenant.delete(endpoint.endpoint_id)
    assert len(held(stack, endpoint.endpoint_id)) == 2
    agent.willing = True

    await eventually("no hold", lambda: not held(stack, endpoint.endpoint_id))
