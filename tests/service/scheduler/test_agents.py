"""Agents over the real stream: what they are told, what they say, and what their silence means."""

import asyncio
from datetime import UTC

import grpc
import pytest
from tests.service.scheduler.conftest import Join
from tests.service.scheduler.scripted_agent import TOKEN, ScriptedAgent, refusal
from tests.service.scheduler.stack import Stack, Tenant, eventually

from engineshed import ids
from engineshed.api.agent.v1.agent_service_pb2 import (
    ConnectRequest,
    DesiredReplica,
    NodeStatus,
    ReplicaStatus,
)
from engineshed.api.scheduler.v1 import endpoint_service_pb2 as pb
from engineshed.api.scheduler.v1 import node_service_pb2 as nodes
from engineshed.api.scheduler.v1.events_pb2 import ReplicaFailed
from engineshed.rpc import error_from
from engineshed.runtime import utc_now
from engineshed.scheduler.agents import Agents, NodeTakenError
from engineshed.scheduler.observations import ABSENT_S

E = pb.Endpoint
R = pb.Replica


async def node_state(operator: Tenant, node_id: str) -> nodes.Node:
    request = nodes.GetNodeRequest(node_id=node_id)
    reply = await operator.nodes.GetNode(request, wait_for_ready=True)
    node: nodes.Node = reply.node
    return node


async def lost(operator: Tenant, agent: ScriptedAgent) -> None:
    async def is_lost() -> bool:
        return (await node_state(operator, agent.node_id)).state == nodes.Node.STATE_LOST

    await eventually("the node to be lost", is_lost)


async def test_operators_see_nodes_with_who_holds_their_gpus(
    stack: Stack, tenant: Tenant, join: Join, region: str
) -> None:
    agent = await join(gpus=2, gpu_type="h100-sxm")
    endpoint = await tenant.create(region)
    await tenant.until(endpoint.endpoint_id, E.STATE_RUNNING)
    operator = stack.tenant("operator")
    node = await node_state(operator, agent.node_id)
    await operator.close()

    assert node.state == nodes.Node.STATE_JOINED
    assert node.inventory == agent.inventory
    assert [gpu.endpoint_id for gpu in node.gpus] == [endpoint.endpoint_id, ""]
    assert node.gpus[0].org_id == tenant.org_id
    assert node.HasField("heard_time")


async def test_after_a_restart_a_node_has_reported_once_what_runs_there_is_known(
    own_stack: Stack, tenant: Tenant, join: Join, region: str
) -> None:
    operator = own_stack.tenant("operator")
    agent = await join()
    endpoint_id = (await tenant.create(region)).endpoint_id
    await tenant.until(endpoint_id, E.STATE_RUNNING)
    assert (await node_state(operator, agent.node_id)).reported
    await agent.stop()
    own_stack.restart()

    before = await node_state(operator, agent.node_id)
    (replica_id,) = agent.running()
    agent.set(replica_id, R.STATE_FAILED, code="NODE_RESTARTED", retryable=True)
    agent.start()

    async def reported() -> bool:
        return (await node_state(operator, agent.node_id)).reported

    assert (before.state, before.reported) == (nodes.Node.STATE_JOINED, False)
    await eventually("the node to have reported", reported)
    history = await tenant.history(endpoint_id)
    assert "ReplicaFailed" in history, "reported means recorded"
    await operator.close()


async def test_a_node_that_offers_something_else_is_used_for_that(
    tenant: Tenant, join: Join, region: str
) -> None:
    agent = await join(gpus=1)
    endpoint_id = (await tenant.create(region)).endpoint_id
    await tenant.until(endpoint_id, E.STATE_RUNNING)
    waiting = (await tenant.create(region)).endpoint_id
    await tenant.until(waiting, E.STATE_QUEUED)

    await agent.stop()
    agent.inventory.gpu_count = 2
    agent.start()
    await tenant.until(waiting, E.STATE_RUNNING)


async def test_a_second_connection_ends_the_first(stack: Stack, join: Join) -> None:
    agent = await join()
    second = stack.agent(agent.inventory.region)
    second.node_id = agent.node_id
    second.start()
    await eventually("the first to be told", lambda: agent.error)
    await asyncio.gather(agent.stop(), second.stop())

    assert agent.error is not None
    error = error_from(agent.error)
    assert agent.error.code() == grpc.StatusCode.ABORTED
    assert error is not None
    assert error.reason == "SUPERSEDED"


async def test_another_host_cannot_take_over_a_node_that_is_heard(
    stack: Stack, tenant: Tenant, join: Join, region: str
) -> None:
    agent = await join()
    other = stack.agent(region)
    other.node_id, other.boot_id = agent.node_id, "another boot"
    other.start()
    await eventually("the other to be told", lambda: other.error)
    await tenant.until((await tenant.create(region)).endpoint_id, E.STATE_RUNNING)
    assert agent.error is None
    assert other.received == []

    assert other.error is not None
    error = error_from(other.error)
    assert error is not None
    assert error.reason == "NODE_TAKEN"
    assert "node.json" in error.message
    await agent.stop()
    await eventually("the other to be let in", lambda: other.received)
    await other.stop()


async def test_a_host_that_was_started_anew_takes_over_what_is_lost() -> None:
    agents = Agents(term=1)
    silent = agents.connect("node_1", "first boot", lost=False)
    with pytest.raises(NodeTakenError):
        agents.connect("node_1", "second boot", lost=False)
    assert agents.is_current(silent)
    session = agents.connect("node_1", "second boot", lost=True)
    assert agents.is_current(session)


async def test_leases_run_on_while_something_is_waited_for_and_rest_while_nothing_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 100.0
    monkeypatch.setattr("engineshed.scheduler.agents._clock", lambda: now)
    agents = Agents(term=1)
    agents.expect("node_1", utc_now())
    watching = asyncio.create_task(agents.watch())

    async def looked() -> bool:
        return agents._looked == now

    for _ in range(10):
        now += 0.4
        await eventually("a look at the clock", looked)
    assert [node_id for node_id, _ in agents.silent(["node_1"], lease_s=3)] == ["node_1"]

    agents.expect("node_1", utc_now())
    now += 60
    assert list(agents.silent(["node_1"], lease_s=3)) == []
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)


async def test_a_hello_comes_first(stack: Stack) -> None:
    code = await refusal(stack.address, TOKEN, ConnectRequest(status=NodeStatus()))
    assert code == grpc.StatusCode.INVALID_ARGUMENT


async def test_draining_replicas_are_drained_and_unready_ones_stopped(
    tenant: Tenant, join: Join, region: str
) -> None:
    agent = await join()
    served = (await tenant.create(region)).endpoint_id
    await tenant.until(served, E.STATE_RUNNING)
    (served_replica,) = agent.replicas
    agent.willing = False
    building = (await tenant.create(region)).endpoint_id
    await eventually("both replicas", lambda: len(agent.replicas) == 2)
    agent.set(next(one for one in agent.replicas if one != served_replica), R.STATE_BUILDING)
    for endpoint_id in (served, building):
        await tenant.stop(endpoint_id)

    expected = {DesiredReplica.GOAL_DRAIN, DesiredReplica.GOAL_STOP}
    await eventually("both goals", lambda: set(agent.goals().values()) == expected)
    assert agent.goals()[served_replica] == DesiredReplica.GOAL_DRAIN
    agent.set(served_replica, R.STATE_DRAINING, in_flight=3)

    async def shown() -> bool:
        (replica,) = (await tenant.get(served)).replicas
        return replica.progress_message == "3 requests in flight"

    await eventually("what is in flight", shown)
    agent.willing = True
    await tenant.until(served, E.STATE_STOPPED)
    await tenant.until(building, E.STATE_STOPPED)
    await eventually("all to be forgotten", lambda: not agent.replicas)


async def test_progress_is_shown_and_no_event(tenant: Tenant, join: Join, region: str) -> None:
    agent = await join()
    agent.willing = False
    endpoint_id = (await tenant.create(region)).endpoint_id
    await eventually("the replica", lambda: agent.replicas)
    (replica_id,) = agent.replicas
    agent.set(replica_id, R.STATE_BUILDING, progress=0.5, progress_message="layer 12 of 24")

    async def shown() -> bool:
        (replica,) = (await tenant.get(endpoint_id)).replicas
        return replica.progress == 0.5 and replica.progress_message == "layer 12 of 24"

    await eventually("the progress", shown)
    assert (await tenant.history(endpoint_id))[-1] == "ReplicaBuilding"


@pytest.mark.parametrize("centuries", [-95, 95])
async def test_an_age_that_leads_out_of_the_calendar_does_no_harm(
    tenant: Tenant, join: Join, region: str, centuries: int
) -> None:
    agent = await join()
    agent.willing = False
    endpoint_id = (await tenant.create(region)).endpoint_id
    await eventually("the replica", lambda: agent.replicas)
    (replica_id,) = agent.replicas
    agent.set(replica_id, R.STATE_READY)
    agent._since[replica_id] -= centuries * 100 * 365 * 24 * 3600
    await tenant.until(endpoint_id, E.STATE_RUNNING)
    assert agent.error is None


async def test_a_crash_is_made_good_and_a_hopeless_failure_is_told(
    tenant: Tenant, join: Join, region: str
) -> None:
    agent = await join()
    endpoint_id = (await tenant.create(region)).endpoint_id
    await tenant.until(endpoint_id, E.STATE_RUNNING)
    (old,) = agent.replicas
    agent.set(old, R.STATE_FAILED, code="TRITON_DIED", reason="signal 9", retryable=True)
    await eventually("a successor", lambda: [one for one in agent.running() if one != old])
    running = await tenant.until(endpoint_id, E.STATE_RUNNING)
    assert [one.state for one in running.replicas] == [R.STATE_FAILED, R.STATE_READY]
    assert running.replicas[0].state_reason == "TRITON_DIED: signal 9"

    (new,) = agent.running()
    agent.set(new, R.STATE_FAILED, code="OUT_OF_MEMORY", reason="too large", retryable=False)
    failed = await tenant.until(endpoint_id, E.STATE_FAILED)
    assert failed.state_reason == "OUT_OF_MEMORY: too large"


async def test_a_failure_told_at_great_length_is_recorded_by_its_beginning(
    tenant: Tenant, join: Join, region: str
) -> None:
    agent = await join()
    endpoint_id = (await tenant.create(region)).endpoint_id
    await eventually("the replica", lambda: agent.replicas)
    (replica_id,) = agent.replicas
    long = "no kernel image; " * 100_000
    agent.set(replica_id, R.STATE_FAILED, code="BUILD_FAILED", reason=long, retryable=False)
    failed = await tenant.until(endpoint_id, E.STATE_FAILED)
    assert failed.state_reason.startswith("BUILD_FAILED: no kernel image; no kernel image")
    assert len(failed.state_reason) < 3_000
    assert agent.error is None


async def test_a_replica_that_its_node_forgot_is_replaced(
    tenant: Tenant, join: Join, region: str
) -> None:
    agent = await join()
    endpoint_id = (await tenant.create(region)).endpoint_id
    await tenant.until(endpoint_id, E.STATE_RUNNING)
    (old,) = agent.replicas
    del agent.replicas[old]
    await eventually("a successor", lambda: [one for one in agent.running() if one != old])
    running = await tenant.until(endpoint_id, E.STATE_RUNNING)
    assert running.replicas[0].state_reason.startswith("REPLICA_GONE")

    failed = ReplicaFailed()
    (recorded_at,) = (
        event.recorded_at.ToDatetime(UTC)
        for event in await tenant.events(f"endpoint/{endpoint_id}")
        if event.data.Unpack(failed)
    )
    lag = recorded_at - failed.effective_at.ToDatetime(UTC)
    assert lag.total_seconds() >= ABSENT_S, "it ended when it was first missed"


async def test_what_nobody_placed_keeps_its_gpus_until_it_is_gone(
    tenant: Tenant, join: Join, region: str
) -> None:
    agent = await join()
    await agent.stop()
    stranger = ReplicaStatus(
        replica_id=ids.new(ids.REPLICA),
        endpoint_id=ids.new(ids.ENDPOINT),
        state=R.STATE_READY,
    )
    agent.willing = False
    agent.replicas[stranger.replica_id] = stranger
    agent.gpus[stranger.replica_id] = (0, 1, 2, 3)
    agent._since[stranger.replica_id] = 0
    agent.received.clear()
    agent.start()
    await eventually("the desired state", lambda: agent.received)
    assert agent.goals() == {}, "what is not named must be stopped"

    endpoint_id = (await tenant.create(region)).endpoint_id
    await tenant.until(endpoint_id, E.STATE_QUEUED)
    agent.willing = True
    await tenant.until(endpoint_id, E.STATE_RUNNING)


class TestSilence:
    async def test_a_lost_node_is_replaced_and_its_replica_stopped_when_it_is_back(
        self, own_stack: Stack, tenant: Tenant, join: Join, region: str
    ) -> None:
        operator = own_stack.tenant("operator")
        first = await join()
        endpoint_id = (await tenant.create(region)).endpoint_id
        await tenant.until(endpoint_id, E.STATE_RUNNING)
        (old,) = first.running()
        second = await join()
        await first.stop()
        await lost(operator, first)

        await eventually("a replacement", lambda: second.running())
        running = await tenant.until(endpoint_id, E.STATE_RUNNING)
        assert [one.state for one in running.replicas] == [R.STATE_DRAINING, R.STATE_READY]
        first.start()
        await eventually("the old one to be stopped", lambda: old not in first.running())
        await eventually("it to be forgotten", lambda: not first.replicas)
        history = await tenant.history(endpoint_id)
        assert history.count("ReplicaLost") == 1
        assert history.count("ReplicaPlaced") == 2
        await operator.close()

    async def test_one_that_nothing_replaced_goes_on_serving(
        self, own_stack: Stack, tenant: Tenant, join: Join, region: str
    ) -> None:
        operator = own_stack.tenant("operator")
        agent = await join()
        endpoint_id = (await tenant.create(region, gpu_count=4)).endpoint_id
        await tenant.until(endpoint_id, E.STATE_RUNNING)
        await agent.stop()
        await lost(operator, agent)
        unheard = await tenant.until(endpoint_id, E.STATE_PROVISIONING)
        assert "not heard" in unheard.state_reason

        agent.start()
        running = await tenant.until(endpoint_id, E.STATE_RUNNING)
        assert len(running.replicas) == 1
        history = await tenant.history(endpoint_id)
        assert history[-4:] == [
            "ReplicaLost",
            "EndpointProvisioning",
            "ReplicaFound",
            "EndpointRunning",
        ]
        await operator.close()
