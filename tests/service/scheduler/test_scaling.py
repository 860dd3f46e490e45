"""Autoscaling, idling and waking over gRPC, by what agents tell of their replicas."""

import asyncio
from datetime import timedelta

import pytest
from tests.service.scheduler.conftest import Join
from tests.service.scheduler.scripted_agent import ScriptedAgent
from tests.service.scheduler.stack import Stack, Tenant, eventually
from tests.service.scheduler.test_endpoints import refused, updating
from tests.service.scheduler.test_explaining import explained

from engineshed.api.scheduler.v1 import endpoint_service_pb2 as pb
from engineshed.api.scheduler.v1.route_pb2 import Route
from engineshed.bus import ROUTES, Bus, KeyValueWatcher

E = pb.Endpoint
SOON = timedelta(seconds=1)


def scaling(least: int, most: int, **durations: timedelta) -> pb.Scaling:
    message = pb.Scaling(min_replicas=least, max_replicas=most)
    for name, duration in durations.items():
        getattr(message, name).FromTimedelta(duration)
    return message


async def wake(tenant: Tenant, endpoint_id: str) -> pb.Endpoint:
    request = pb.WakeEndpointRequest(endpoint_id=endpoint_id)
    endpoint: pb.Endpoint = (await tenant.endpoints.WakeEndpoint(request)).endpoint
    return endpoint


async def ready(tenant: Tenant, endpoint_id: str, count: int) -> list[pb.Replica]:
    """Wait until so many replicas are ready, and no others are live."""

    async def there() -> list[pb.Replica]:
        replicas = (await tenant.get(endpoint_id)).replicas
        live = [one for one in replicas if one.state <= pb.Replica.STATE_READY]
        if any(one.state != pb.Replica.STATE_READY for one in live) or len(live) != count:
            return []
        return live

    found: list[pb.Replica] = await eventually(f"{count} ready replicas", there)
    return found


def load(agent: ScriptedAgent, in_flight: float) -> None:
    """Let each replica that serves have so many requests from now on."""
    agent.loads = dict.fromkeys(agent.replicas, in_flight)


async def test_load_adds_replicas_and_takes_them_away_again(
    tenant: Tenant, join: Join, region: str
) -> None:
    agent = await join(gpus=4)
    endpoint_id = (await tenant.create(region, scaling=scaling(1, 3))).endpoint_id
    await ready(tenant, endpoint_id, 1)

    load(agent, 4)
    grown = await ready(tenant, endpoint_id, 2)
    assert [one.capacity for one in grown] == ["reserved", "opportunistic"]
    shown = await tenant.get(endpoint_id)
    assert (shown.wanted_replicas, shown.degraded) == (2, False)
    why = (await explained(tenant, endpoint_id)).scaling
    assert (why.target, why.last.replicas) == (2, 1)
    assert why.last.reason.endswith("are too many for 1 replica at 2 each")

    load(agent, 0.5)
    (left,) = await ready(tenant, endpoint_id, 1)
    assert left.replica_id == grown[0].replica_id


async def test_a_fixed_number_has_no_scaling_to_explain(
    tenant: Tenant, join: Join, region: str
) -> None:
    await join()
    endpoint_id = (await tenant.create(region)).endpoint_id
    assert not (await explained(tenant, endpoint_id)).HasField("scaling")


async def test_it_is_idle_until_a_request_comes_and_again_when_none_does(
    tenant: Tenant, join: Join, region: str
) -> None:
    agent = await join()
    bounds = scaling(0, 1, idle_after=SOON)
    created = await tenant.create(region, scaling=bounds)
    assert (created.state, created.wanted_replicas) == (E.STATE_IDLE, 0)
    assert created.scaling.idle_after.ToTimedelta() == SOON
    assert created.scaling.wake_timeout.ToTimedelta() == timedelta(minutes=1)

    assert (await wake(tenant, created.endpoint_id)).wanted_replicas == 1
    await tenant.until(created.endpoint_id, E.STATE_RUNNING)
    idle = await tenant.until(created.endpoint_id, E.STATE_IDLE)
    assert [one.state_reason for one in idle.replicas] == ["idle"]
    await eventually("its processes to be gone", lambda: not agent.running())

    await wake(tenant, created.endpoint_id)
    await tenant.until(created.endpoint_id, E.STATE_RUNNING)


async def test_waking_is_for_callers_of_the_model_and_changes_nothing_that_runs(
    stack: Stack, tenant: Tenant, join: Join, region: str
) -> None:
    await join()
    endpoint_id = (await tenant.create(region)).endpoint_id
    running = await tenant.until(endpoint_id, E.STATE_RUNNING)
    caller = Tenant(stack, tenant.org_id, ("inference",))
    assert (await wake(caller, endpoint_id)).version == running.version
    await caller.close()
    stranger = stack.tenant()
    request = pb.WakeEndpointRequest(endpoint_id=endpoint_id)
    error = await refused(stranger.endpoints.WakeEndpoint(request))
    assert error.reason == "ENDPOINT_NOT_FOUND"
    await stranger.close()


async def test_gateways_learn_which_endpoints_wake_and_how_long_requests_may_wait(
    stack: Stack, tenant: Tenant, join: Join, region: str
) -> None:
    await join()
    bus = await Bus.connect(stack.broker.urls["gateway"], name="gateway")
    watcher: KeyValueWatcher[Route] = KeyValueWatcher(bus, ROUTES)
    bounds = scaling(0, 1, wake_timeout=timedelta(seconds=7))
    sleeper = await tenant.create(region, scaling=bounds)
    other = await tenant.create(region)

    watching = asyncio.create_task(watcher.run())
    keys = {sleeper.routing_key, other.routing_key}
    await eventually("both routes", lambda: keys <= watcher.entries.keys())
    route = watcher.entries[sleeper.routing_key]
    assert (route.status, route.wake_timeout.ToTimedelta()) == ("idle", timedelta(seconds=7))
    assert not watcher.entries[other.routing_key].HasField("wake_timeout")
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    await bus.close()


async def test_idle_capacity_above_the_minimum_makes_room_for_what_is_reserved(
    tenant: Tenant, join: Join, region: str
) -> None:
    agent = await join(gpus=2)
    elastic = (await tenant.create(region, scaling=scaling(1, 2))).endpoint_id
    await ready(tenant, elastic, 1)
    load(agent, 5)
    first, second = await ready(tenant, elastic, 2)

    waiting = (await tenant.create(region)).endpoint_id
    await tenant.until(waiting, E.STATE_QUEUED)
    agent.loads = {first.replica_id: 5}
    await tenant.until(waiting, E.STATE_RUNNING)
    (left,) = await ready(tenant, elastic, 1)
    assert left.replica_id == first.replica_id
    gone = next(
        one for one in (await tenant.get(elastic)).replicas if one.replica_id == second.replica_id
    )
    assert gone.state_reason == "reclaimed for reserved capacity of another endpoint"


async def test_each_field_of_scaling_is_changed_by_itself(
    tenant: Tenant, join: Join, region: str
) -> None:
    await join()
    created = await tenant.create(region, scaling=scaling(1, 3, wake_timeout=SOON))
    request = updating(
        created.endpoint_id, "scaling.idle_after", scaling=scaling(0, 0, idle_after=3 * SOON)
    )
    changed = (await tenant.endpoints.UpdateEndpoint(request)).endpoint.scaling
    assert (changed.min_replicas, changed.max_replicas) == (1, 3)
    assert changed.idle_after.ToTimedelta() == 3 * SOON
    assert changed.wake_timeout.ToTimedelta() == SOON


@pytest.mark.parametrize(
    ("name", "seconds"), [("idle_after", 0), ("idle_after", 10**7), ("wake_timeout", 601)]
)
async def test_durations_that_make_no_sense_are_named(
    tenant: Tenant, join: Join, region: str, name: str, seconds: int
) -> None:
    await join()
    wrong = scaling(0, 1, **{name: timedelta(seconds=seconds)})
    checkpoint_id = tenant.catalog.checkpoint(tenant.org_id)
    request = pb.CreateEndpointRequest(
        name="bot", region=region, checkpoint_id=checkpoint_id, scaling=wrong
    )
    error = await refused(tenant.endpoints.CreateEndpoint(request))
    assert [field.field for field in error.fields] == [f"scaling.{name}"]
