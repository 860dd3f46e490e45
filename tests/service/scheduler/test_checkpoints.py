"""Endpoints and the catalog: waiting for checkpoints, holding them, giving them back."""

import pytest
from tests.service.scheduler.conftest import Join
from tests.service.scheduler.stack import Stack, Tenant, eventually
from tests.service.scheduler.test_endpoints import refused

from engineshed.api.catalog.v1.checkpoint_service_pb2 import Checkpoint
from engineshed.api.catalog.v1.events_pb2 import CheckpointRegistered
from engineshed.api.scheduler.v1 import endpoint_service_pb2 as pb
from engineshed.bus import Bus, EventPublisher
from engineshed.eventstore import Metadata, RecordedEvent
from engineshed.runtime import utc_now

E = pb.Endpoint


async def waiting(stack: Stack, tenant: Tenant, region: str) -> tuple[str, str]:
    """Return a checkpoint that is being registered and an endpoint that waits for it."""
    checkpoint_id = stack.catalog.checkpoint(tenant.org_id, Checkpoint.STATE_REGISTERING)
    endpoint = await tenant.create(region, checkpoint_id=checkpoint_id)
    assert endpoint.state == E.STATE_PROVISIONING
    assert endpoint.state_reason == f"waiting for checkpoint {checkpoint_id} to be registered"
    assert endpoint.checkpoint_digest == ""
    return checkpoint_id, endpoint.endpoint_id


async def test_an_endpoint_waits_until_its_checkpoint_is_registered(
    stack: Stack, tenant: Tenant, join: Join, region: str
) -> None:
    await join()
    checkpoint_id, endpoint_id = await waiting(stack, tenant, region)
    stack.catalog.settle(checkpoint_id, Checkpoint.STATE_REGISTERED)
    running = await tenant.until(endpoint_id, E.STATE_RUNNING)
    assert running.checkpoint_digest == f"sha256:{checkpoint_id}"
    assert "EndpointCheckpointReady" in await tenant.history(endpoint_id)


async def test_the_catalogs_event_ends_the_waiting_at_once(
    stack: Stack, tenant: Tenant, join: Join, region: str, tmp_path
) -> None:
    await join()
    checkpoint_id, endpoint_id = await waiting(stack, tenant, region)
    stack.catalog.settle(checkpoint_id, Checkpoint.STATE_REGISTERED)
    bus = await Bus.connect(stack.broker.urls["catalog"], name="catalog")
    publisher = EventPublisher(bus, "catalog")
    await bus.wait_connected()
    await publisher.resume_position()
    event = CheckpointRegistered(checkpoint_id=checkpoint_id)
    await publisher.publish(
        RecordedEvent(
            1,
            f"evt_{checkpoint_id.removeprefix('ckpt_')}",
            f"checkpoint/{checkpoint_id}",
            2,
            event.DESCRIPTOR.full_name,
            event,
            Metadata("catalog", tenant.org_id),
            utc_now(),
        )
    )
    await tenant.until(endpoint_id, E.STATE_RUNNING)
    await bus.close()


@pytest.mark.parametrize(
    ("state", "code"),
    [
        (Checkpoint.STATE_FAILED, "CHECKPOINT_FAILED"),
        (Checkpoint.STATE_RECLAIMED, "CHECKPOINT_DELETED"),
    ],
)
async def test_an_endpoint_fails_with_its_checkpoint(
    stack: Stack,
    tenant: Tenant,
    join: Join,
    region: str,
    state: Checkpoint.State.ValueType,
    code: str,
) -> None:
    await join()
    checkpoint_id, endpoint_id = await waiting(stack, tenant, region)
    stack.catalog.settle(checkpoint_id, state, "the file is cut off")
    failed = await tenant.until(endpoint_id, E.STATE_FAILED)
    assert failed.state_reason.startswith(code)

    await tenant.delete(endpoint_id)
    await eventually("the hold to be given back", lambda: not stack.catalog.held_for(tenant.org_id))


async def test_one_that_is_deleted_while_it_is_copied_is_served_all_the_same(
    stack: Stack, tenant: Tenant, join: Join, region: str
) -> None:
    await join()
    checkpoint_id, endpoint_id = await waiting(stack, tenant, region)
    stack.catalog.settle(checkpoint_id, Checkpoint.STATE_DELETED)
    stack.catalog.checkpoints[checkpoint_id].digest = "sha256:copied"
    running = await tenant.until(endpoint_id, E.STATE_RUNNING)
    assert running.checkpoint_digest == "sha256:copied"


async def test_a_hold_lasts_through_stopped_and_goes_with_the_last_process(
    stack: Stack, tenant: Tenant, join: Join, region: str
) -> None:
    agent = await join()
    endpoint_id = (await tenant.create(region)).endpoint_id
    await tenant.until(endpoint_id, E.STATE_RUNNING)
    await tenant.stop(endpoint_id)
    await tenant.until(endpoint_id, E.STATE_STOPPED)
    await tenant.restart(endpoint_id)
    await tenant.until(endpoint_id, E.STATE_RUNNING)

    agent.willing = False
    await tenant.delete(endpoint_id)
    await eventually("the drain", lambda: 2 in agent.goals().values())
    assert stack.catalog.held_for(tenant.org_id) == {endpoint_id}
    agent.willing = True
    await eventually("it to be given back", lambda: not stack.catalog.held_for(tenant.org_id))


async def test_without_the_catalog_the_rest_works_and_holds_are_given_back_later(
    own_stack: Stack, tenant: Tenant, join: Join, region: str
) -> None:
    await join()
    await own_stack.publish_tokens()
    endpoint_id = (await tenant.create(region)).endpoint_id
    await tenant.until(endpoint_id, E.STATE_RUNNING)
    own_stack.catalog.away = True

    error = await refused(tenant.create(region))
    assert error.reason == "CATALOG_UNAVAILABLE"
    await tenant.stop(endpoint_id)
    await tenant.until(endpoint_id, E.STATE_STOPPED)
    await tenant.delete(endpoint_id)
    await eventually("the first try", lambda: "hold not given back yet" in own_stack.log())

    own_stack.restart()
    await eventually("another try", lambda: own_stack.log().count("hold not given back yet") > 1)
    own_stack.catalog.away = False
    await eventually("it to be given back", lambda: not own_stack.catalog.held_for(tenant.org_id))
