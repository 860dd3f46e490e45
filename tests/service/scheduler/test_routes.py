"""What gateways find in the broker."""

import asyncio
import hmac
from collections.abc import AsyncIterator, Callable
from datetime import datetime

import pytest
from tests.service.scheduler.conftest import Join
from tests.service.scheduler.stack import Stack, Tenant, eventually

from engineshed.api.agent.v1.agent_service_pb2 import DesiredState
from engineshed.api.scheduler.v1 import endpoint_service_pb2 as pb
from engineshed.api.scheduler.v1.route_pb2 import Route
from engineshed.bus import ROUTES, Bus, KeyValueWatcher
from engineshed.runtime import utc_now

E = pb.Endpoint
R = pb.Replica


class Gateway:
    """Sees what a gateway sees, in the order in which it came."""

    def __init__(self, watcher: KeyValueWatcher[Route], seen: list[Route | None]) -> None:
        self.watcher = watcher
        self.seen = seen

    def route(self, routing_key: str) -> Route | None:
        return self.watcher.entries.get(routing_key)


@pytest.fixture
async def gateway(stack: Stack) -> AsyncIterator[Gateway]:
    bus = await Bus.connect(stack.broker.urls["gateway"], name="gateway")
    seen: list[Route | None] = []
    watcher = KeyValueWatcher(bus, ROUTES, on_change=lambda _, route: seen.append(route))
    task = asyncio.create_task(watcher.run())
    yield Gateway(watcher, seen)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await bus.close()


def until(gateway: Gateway, routing_key: str, condition: Callable[[Route], bool]):
    def found() -> Route | None:
        route = gateway.route(routing_key)
        return route if route is not None and condition(route) else None

    return eventually(f"the route of {routing_key}", found)


async def test_a_route_follows_its_endpoint(
    gateway: Gateway, tenant: Tenant, join: Join, region: str
) -> None:
    agent = await join()
    agent.willing = False
    created = await tenant.create(region)
    route = await until(gateway, created.routing_key, lambda one: one.status == "provisioning")
    assert route is not None
    assert (route.endpoint_id, route.org_id) == (created.endpoint_id, tenant.org_id)
    assert (route.ever_ready, list(route.replicas)) == (False, [])

    agent.willing = True
    route = await until(gateway, created.routing_key, lambda one: one.status == "running")
    assert route is not None
    (replica,) = route.replicas
    secret = hmac.digest(b"the key of the tests", replica.replica_id.encode(), "sha256").hex()
    assert (replica.url, replica.secret) == (f"http://{replica.replica_id}.test", secret)
    assert agent.desired.replicas[0].secret == secret
    assert route.ever_ready

    await tenant.stop(created.endpoint_id)
    await tenant.until(created.endpoint_id, E.STATE_STOPPED)
    route = await until(gateway, created.routing_key, lambda one: one.status == "stopped")
    assert route is not None
    assert (route.ever_ready, list(route.replicas)) == (True, [])

    await tenant.delete(created.endpoint_id)
    await eventually("the tombstone", lambda: gateway.route(created.routing_key) is None)


async def test_a_draining_replica_has_left_its_route_when_its_node_is_told(
    stack: Stack, gateway: Gateway, tenant: Tenant, join: Join, region: str
) -> None:
    agent = await join()
    created = await tenant.create(region)
    await tenant.until(created.endpoint_id, E.STATE_RUNNING)
    await until(gateway, created.routing_key, lambda one: bool(one.replicas))
    agent.willing = False
    told_at: list[datetime] = []
    obey = agent._obey

    def watch(desired: DesiredState) -> None:
        told_at.append(utc_now())
        obey(desired)

    agent._obey = watch  # type: ignore[method-assign]  # to look at the very moment
    await tenant.stop(created.endpoint_id)
    await eventually("the drain", lambda: told_at)

    bus = await Bus.connect(stack.broker.urls["scheduler"], name="test")
    await bus.wait_connected()
    message = await bus.call(
        lambda js: js.get_last_msg(ROUTES.stream, f"{ROUTES.prefix}{created.routing_key}")
    )
    await bus.close()
    assert Route.FromString(message.data or b"").status == "stopping"
    assert message.time is not None
    assert message.time <= told_at[0]


async def test_a_lost_replica_keeps_its_route_until_another_is_ready(
    own_stack: Stack, gateway: Gateway, tenant: Tenant, join: Join, region: str
) -> None:
    first = await join()
    created = await tenant.create(region)
    await tenant.until(created.endpoint_id, E.STATE_RUNNING)
    (old,) = first.running()
    second = await join()
    second.willing = False
    await first.stop()
    await eventually("a replacement", lambda: second.running())
    (new,) = second.running()
    route = await until(gateway, created.routing_key, lambda one: one.status == "provisioning")
    assert route is not None
    assert [one.replica_id for one in route.replicas] == [old]

    second.willing = True
    route = await until(gateway, created.routing_key, lambda one: one.status == "running")
    assert route is not None
    assert [one.replica_id for one in route.replicas] == [new]


async def test_a_replica_that_its_host_drains_leaves_the_route_and_is_replaced(
    tenant: Tenant, join: Join, region: str, gateway: Gateway
) -> None:
    agent = await join()
    endpoint = await tenant.create(region)
    await tenant.until(endpoint.endpoint_id, E.STATE_RUNNING)
    (old,) = agent.running()
    await until(gateway, endpoint.routing_key, lambda route: len(route.replicas) == 1)

    agent.set(old, R.STATE_DRAINING)

    route = await until(
        gateway,
        endpoint.routing_key,
        lambda route: len(route.replicas) == 1 and route.replicas[0].replica_id != old,
    )
    assert route.status == "running"
    shown = (await tenant.get(endpoint.endpoint_id)).replicas
    reasons = {replica.replica_id: replica.state_reason for replica in shown}
    assert reasons[old] == "its host drains it"


async def test_routes_outlive_the_scheduler_and_a_wiped_broker(
    own_stack: Stack, gateway: Gateway, tenant: Tenant, join: Join, region: str
) -> None:
    await join()
    created = await tenant.create(region)
    deleted = await tenant.create(region)
    await tenant.until(created.endpoint_id, E.STATE_RUNNING)
    await tenant.delete(deleted.endpoint_id)
    before = await until(gateway, created.routing_key, lambda one: one.status == "running")
    assert before is not None

    own_stack.restart()
    after = await until(gateway, created.routing_key, lambda one: one.term > before.term)
    assert after is not None
    assert (after.status, after.ever_ready) == ("running", True)
    assert [one.replica_id for one in after.replicas] == [one.replica_id for one in before.replicas]

    await own_stack.broker.restart(wiped=True)
    bus = await Bus.connect(own_stack.broker.urls["gateway"], name="gateway")
    fresh: dict[str, Route | None] = {}
    watcher = KeyValueWatcher(bus, ROUTES, on_change=fresh.__setitem__)
    task = asyncio.create_task(watcher.run())
    await eventually("both routes", lambda: len(fresh) == 2)
    assert fresh[deleted.routing_key] is None, "its tombstone is written again too"
    assert fresh[created.routing_key] is not None
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await bus.close()


async def test_draining_goes_on_without_the_broker(
    own_stack: Stack, tenant: Tenant, join: Join, region: str
) -> None:
    await join()
    created = await tenant.create(region)
    await tenant.until(created.endpoint_id, E.STATE_RUNNING)
    own_stack.broker.pause()
    await tenant.stop(created.endpoint_id)
    await tenant.until(created.endpoint_id, E.STATE_STOPPED)
    own_stack.broker.kill()
    await tenant.restart(created.endpoint_id)
    await tenant.until(created.endpoint_id, E.STATE_RUNNING)
