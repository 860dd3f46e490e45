"""Hosts are taken out of use: cordoned, drained, removed, and back again."""

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from tests.service.scheduler.conftest import Join
from tests.service.scheduler.stack import Stack, Tenant, eventually

from engineshed import ids
from engineshed.api.scheduler.v1 import endpoint_service_pb2 as pb
from engineshed.api.scheduler.v1 import events_pb2 as events
from engineshed.api.scheduler.v1 import node_service_pb2 as nodes
from engineshed.errors import DomainError
from engineshed.rpc import error_from

E = pb.Endpoint
N = nodes.Node
R = pb.Replica


class Operator:
    """Somebody who looks after the hosts."""

    def __init__(self, tenant: Tenant) -> None:
        self.tenant = tenant
        self.stub = tenant.nodes

    async def get(self, node_id: str) -> nodes.Node:
        request = nodes.GetNodeRequest(node_id=node_id)
        node: nodes.Node = (await self.stub.GetNode(request, wait_for_ready=True)).node
        return node

    async def listed(self) -> set[str]:
        found: set[str] = set()
        token = ""
        while True:
            page = await self.stub.ListNodes(nodes.ListNodesRequest(page_size=2, page_token=token))
            found |= {node.node_id for node in page.nodes}
            token = page.next_page_token
            if not token:
                return found

    async def cordon(self, node_id: str, reason: str = "") -> nodes.Node:
        request = nodes.CordonNodeRequest(node_id=node_id, reason=reason)
        node: nodes.Node = (await self.stub.CordonNode(request)).node
        return node

    async def uncordon(self, node_id: str) -> nodes.Node:
        request = nodes.UncordonNodeRequest(node_id=node_id)
        node: nodes.Node = (await self.stub.UncordonNode(request)).node
        return node

    async def drain(self, node_id: str, reason: str = "") -> nodes.Node:
        request = nodes.DrainNodeRequest(node_id=node_id, reason=reason)
        node: nodes.Node = (await self.stub.DrainNode(request)).node
        return node

    async def remove(self, node_id: str, *, force: bool = False) -> nodes.Node:
        request = nodes.RemoveNodeRequest(node_id=node_id, force=force, reason="sold")
        node: nodes.Node = (await self.stub.RemoveNode(request)).node
        return node

    async def until(self, node_id: str, state: "N.State.ValueType") -> None:
        async def there() -> bool:
            return (await self.get(node_id)).state == state

        await eventually(f"the node to be {N.State.Name(state)}", there)

    async def until_empty(self, node_id: str) -> None:
        async def empty() -> bool:
            return not any(gpu.replica_id for gpu in (await self.get(node_id)).gpus)

        await eventually("the node to be empty", empty)


@pytest.fixture
async def operator(stack: Stack) -> AsyncIterator[Operator]:
    tenant = stack.tenant("operator", "endpoints:read")
    yield Operator(tenant)
    await tenant.close()


async def refused(call: Any) -> DomainError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    error = error_from(caught.value)
    assert error is not None
    return error


async def test_a_cordoned_node_is_given_nothing_until_it_is_uncordoned(
    operator: Operator, tenant: Tenant, join: Join, region: str
) -> None:
    agent = await join()
    before = (await tenant.create(region)).endpoint_id
    await tenant.until(before, E.STATE_RUNNING)
    for _ in range(2):
        assert (await operator.cordon(agent.node_id, "fans")).state == N.STATE_CORDONED
    waiting = (await tenant.create(region)).endpoint_id

    async def reason() -> bool:
        return (await tenant.get(waiting)).state_reason.endswith("all that are heard are cordoned")

    await eventually("the reason", reason)
    assert (await tenant.get(before)).state == E.STATE_RUNNING
    assert (await operator.cordon(agent.node_id)).reason == "fans", "until another one is given"
    uncordoned = await operator.uncordon(agent.node_id)
    assert (uncordoned.state, uncordoned.reason) == (N.STATE_JOINED, "")
    await tenant.until(waiting, E.STATE_RUNNING)

    history = await operator.tenant.events(f"node/{agent.node_id}")
    names = [event.data.type_url.rpartition(".")[2] for event in history]
    assert names == ["NodeJoined", "NodeCordoned", "NodeUncordoned"]
    cordoned = events.NodeCordoned()
    assert history[1].data.Unpack(cordoned)
    assert cordoned.reason == "fans"
    assert history[1].actor.startswith("tok_")
    assert history[1].org_id == ids.PLATFORM


async def test_a_drained_nodes_replicas_serve_until_others_do_elsewhere(
    operator: Operator, tenant: Tenant, join: Join, region: str
) -> None:
    old = await join(gpus=2)
    one, two = [(await tenant.create(region)).endpoint_id for _ in range(2)]
    for endpoint_id in (one, two):
        await tenant.until(endpoint_id, E.STATE_RUNNING)
    await operator.drain(old.node_id, "a new kernel")
    assert len(old.running()) == 2, "nothing stops while there is no room elsewhere"

    new = await join(gpus=2)
    await operator.until_empty(old.node_id)
    assert (await operator.get(old.node_id)).state == N.STATE_DRAINING
    for endpoint_id in (one, two):
        endpoint = await tenant.get(endpoint_id)
        assert endpoint.state == E.STATE_RUNNING
        live = [item for item in endpoint.replicas if item.state == R.STATE_READY]
        assert [item.node_id for item in live] == [new.node_id]
        history = await tenant.history(endpoint_id)
        assert history.count("EndpointRunning") == 1, "it served all the time"
        assert history.index("ReplicaLeaving") < history.index("ReplicaDraining")
        assert history.count("ReplicaReady") == 2


async def test_a_node_is_not_removed_from_under_its_replicas(
    operator: Operator, tenant: Tenant, join: Join, region: str
) -> None:
    agent = await join()
    endpoint = await tenant.create(region)
    await tenant.until(endpoint.endpoint_id, E.STATE_RUNNING)
    error = await refused(operator.remove(agent.node_id))
    (replica_id,) = agent.running()
    assert error.reason == "NODE_IN_USE"
    assert replica_id in error.message
    assert "drain" in error.message
    assert (await operator.get(agent.node_id)).state == N.STATE_JOINED


async def test_a_removed_node_is_no_part_of_the_fleet(
    operator: Operator, tenant: Tenant, join: Join, region: str
) -> None:
    agent, other = await join(), await join(gpu_type="h100-sxm")
    await agent.stop()
    for _ in range(2):
        assert (await operator.remove(agent.node_id)).state == N.STATE_LEFT
    assert agent.node_id not in await operator.listed()
    assert other.node_id in await operator.listed()
    assert (await operator.get(agent.node_id)).state == N.STATE_LEFT
    error = await refused(tenant.create(region, gpu_type="cpu"))
    assert error.reason == "UNKNOWN_GPU_TYPE"
    for order in (operator.cordon, operator.uncordon, operator.drain):
        assert (await refused(order(agent.node_id))).reason == "WRONG_NODE_STATE"

    agent.start()
    await operator.until(agent.node_id, N.STATE_JOINED)
    await tenant.until((await tenant.create(region, gpu_type="cpu")).endpoint_id, E.STATE_RUNNING)


async def test_what_is_on_a_host_that_is_removed_by_force_starts_elsewhere_at_once(
    operator: Operator, tenant: Tenant, join: Join, region: str
) -> None:
    old = await join()
    endpoint_id = (await tenant.create(region)).endpoint_id
    await tenant.until(endpoint_id, E.STATE_RUNNING)
    (lost,) = old.running()
    await old.stop()
    new = await join()
    await operator.remove(old.node_id, force=True)

    async def moved() -> bool:
        endpoint = await tenant.get(endpoint_id)
        return any(
            item.state == R.STATE_READY and item.node_id == new.node_id
            for item in endpoint.replicas
        )

    await eventually("the replacement", moved)
    replicas = {item.replica_id: item for item in (await tenant.get(endpoint_id)).replicas}
    assert replicas[lost].state == R.STATE_FAILED
    assert replicas[lost].state_reason.startswith("NODE_REMOVED: ")

    # The host was not gone for good after all: what it still runs is stopped, and nothing is
    # placed over it meanwhile.
    old.start()
    await eventually("what was left there to stop", lambda: not old.running())
    await operator.until(old.node_id, N.STATE_JOINED)


async def test_the_agent_of_a_removed_node_is_told(operator: Operator, join: Join) -> None:
    agent = await join()
    await operator.remove(agent.node_id)
    await eventually("the agent to be told", lambda: agent.error)
    assert agent.error is not None
    error = error_from(agent.error)
    assert error is not None
    assert error.reason == "NODE_REMOVED"
    await operator.until(agent.node_id, N.STATE_JOINED)  # for it connects again


async def test_there_is_no_such_node(operator: Operator) -> None:
    for order in (operator.cordon, operator.uncordon, operator.drain, operator.remove):
        assert (await refused(order(ids.new(ids.NODE)))).reason == "NODE_NOT_FOUND"


@pytest.mark.usefixtures("own_stack")
async def test_a_cordoned_node_that_was_lost_is_still_cordoned_also_after_a_restart(
    stack: Stack, operator: Operator, tenant: Tenant, join: Join, region: str
) -> None:
    agent = await join()
    endpoint_id = (await tenant.create(region)).endpoint_id
    await tenant.until(endpoint_id, E.STATE_RUNNING)
    await operator.cordon(agent.node_id)
    await agent.stop()
    await operator.until(agent.node_id, N.STATE_LOST)
    agent.start()
    await operator.until(agent.node_id, N.STATE_CORDONED)
    stack.restart()
    assert (await operator.get(agent.node_id)).state == N.STATE_CORDONED
    await agent.stop()
    await operator.until(agent.node_id, N.STATE_LOST)
    agent.start()
    await operator.until(agent.node_id, N.STATE_CORDONED)
    await tenant.until(endpoint_id, E.STATE_RUNNING)


@pytest.mark.usefixtures("own_stack")
async def test_a_scheduler_that_dies_while_it_removes_a_node_ends_it_after_its_restart(
    stack: Stack, operator: Operator, tenant: Tenant, join: Join, region: str
) -> None:
    agent = await join(gpus=8)
    created = [(await tenant.create(region)).endpoint_id for _ in range(8)]
    for endpoint_id in created:
        await tenant.until(endpoint_id, E.STATE_RUNNING)
    await agent.stop()
    await operator.remove(agent.node_id, force=True)
    stack.restart()
    await operator.until_empty(agent.node_id)
    for endpoint_id in created:
        assert "ReplicaFailed" in await tenant.history(endpoint_id)
    assert (await operator.get(agent.node_id)).state == N.STATE_LEFT
