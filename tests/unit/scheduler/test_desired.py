"""What nodes are told to run, and where gateways are told to send requests."""

from datetime import timedelta

import pytest
from tests.unit.scheduler.world import World

from engineshed.api.agent.v1.agent_service_pb2 import DesiredReplica
from engineshed.scheduler.domain.commands import Delete, Stop
from engineshed.scheduler.domain.desired import desired_replicas, route_of
from engineshed.scheduler.domain.replica import ReplicaState

S = ReplicaState


def secret_of(replica_id: str) -> str:
    return f"secret of {replica_id}"


@pytest.fixture
def world() -> World:
    world = World()
    world.join(gpus=4)
    return world


def desired(world: World, node_id: str) -> list[DesiredReplica]:
    return desired_replicas(world.view, node_id, secret_of, timedelta(minutes=10))


def goals(world: World) -> list[str]:
    (node_id,) = world.view.nodes
    return [DesiredReplica.Goal.Name(one.goal) for one in desired(world, node_id)]


def test_a_node_is_told_all_that_it_needs_to_run_a_replica(world: World) -> None:
    endpoint_id = world.create(gpus=2)
    world.plan()
    (replica,) = world.live(endpoint_id)
    (wanted,) = desired(world, replica.node_id)

    assert wanted.replica_id == replica.replica_id
    assert wanted.endpoint_id == endpoint_id
    assert list(wanted.gpus) == [0, 1]
    assert wanted.checkpoint_digest == "sha256:1"
    assert wanted.checkpoint_location == "checkpoints/ckpt_1"
    assert wanted.secret == secret_of(replica.replica_id)
    assert wanted.drain_timeout.seconds == 600
    assert goals(world) == ["GOAL_RUN"]


def test_what_served_drains_and_what_never_did_stops(world: World) -> None:
    served, building = world.running(), world.create()
    world.plan()
    world.tell(served, Stop())
    world.tell(building, Stop())
    assert goals(world) == ["GOAL_DRAIN", "GOAL_STOP"]


def test_what_ended_is_named_no_more(world: World) -> None:
    endpoint_id = world.running()
    world.tell(endpoint_id, Stop())
    world.finish_draining(endpoint_id)
    assert goals(world) == []


def test_a_lost_replica_should_go_on_running(world: World) -> None:
    world.running()
    (node_id,) = world.view.nodes
    world.lose(node_id)
    assert goals(world) == ["GOAL_RUN"]


def test_a_route_names_the_ready_replicas_with_their_secrets(world: World) -> None:
    endpoint_id = world.create(replicas=2)
    world.plan()
    ready, _ = world.live(endpoint_id)
    route = route_of(world.endpoint(endpoint_id), secret_of)
    assert (route.status, route.ever_ready, list(route.replicas)) == ("provisioning", False, [])

    world.report(endpoint_id, ready.replica_id, S.READY)
    route = route_of(world.endpoint(endpoint_id), secret_of)
    assert (route.status, route.ever_ready) == ("running", True)
    assert [(one.replica_id, one.url, one.secret) for one in route.replicas] == [
        (ready.replica_id, f"http://{ready.replica_id}", secret_of(ready.replica_id))
    ]


def test_a_draining_replica_is_in_no_route(world: World) -> None:
    endpoint_id = world.running()
    world.tell(endpoint_id, Stop())
    route = route_of(world.endpoint(endpoint_id), secret_of)
    assert (route.status, route.ever_ready, list(route.replicas)) == ("stopping", True, [])


def test_a_lost_replica_keeps_its_route_if_it_served(world: World) -> None:
    served, building = world.running(), world.create()
    world.plan()
    (node_id,) = world.view.nodes
    world.lose(node_id)
    assert len(route_of(world.endpoint(served), secret_of).replicas) == 1
    assert len(route_of(world.endpoint(building), secret_of).replicas) == 0


def test_the_route_of_a_terminated_endpoint_is_a_tombstone(world: World) -> None:
    endpoint_id = world.running()
    world.tell(endpoint_id, Delete())
    assert route_of(world.endpoint(endpoint_id), secret_of).tombstone
