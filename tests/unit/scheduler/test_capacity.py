"""What an endpoint that must not wait would get now, and why it is refused."""

import pytest
from tests.unit.scheduler.world import REGISTERED, REGISTERING, World

from engineshed.scheduler.domain import decide, node
from engineshed.scheduler.domain.capacity import require_capacity
from engineshed.scheduler.domain.commands import Create, Stop
from engineshed.scheduler.domain.endpoint import Endpoint
from engineshed.scheduler.domain.errors import (
    CapacityUnknownError,
    CheckpointNotReadyError,
    NoCapacityError,
)
from engineshed.scheduler.domain.node import Greet, Inventory
from engineshed.scheduler.domain.plan import Assign, Spot, plan_newcomer
from engineshed.scheduler.domain.replica import Checkpoint, Serving
from engineshed.scheduler.domain.scaling import Scaling
from engineshed.scheduler.domain.score import Policy


@pytest.fixture
def world() -> World:
    return World()


def newcomer(
    world: World, gpus: int = 1, replicas: int = 1, checkpoint: Checkpoint = REGISTERED
) -> Endpoint:
    command = Create(
        endpoint_id="ep_new",
        org_id="org_1",
        name="bot",
        description="",
        model_name="custom",
        flavor_name="base",
        checkpoint=checkpoint,
        gpu_type="cpu",
        gpu_count=gpus,
        region="local",
        scaling=Scaling(replicas, replicas),
        serving=Serving(),
        routing_key="bot-new",
    )
    return decide.fold(None, decide.decide(None, command, world.now), world.now)


def spots(world: World, endpoint: Endpoint) -> tuple[Spot, ...]:
    return plan_newcomer(world.view, endpoint, Policy(), world.now)


def refusal(world: World, endpoint: Endpoint) -> NoCapacityError:
    with pytest.raises(NoCapacityError) as caught:
        require_capacity(world.view, endpoint, len(spots(world, endpoint)))
    return caught.value


def test_it_gets_what_it_would_get_if_it_were_created_and_planned(world: World) -> None:
    for gpus in (8, 2, 4):
        world.join(gpus=gpus)
    foreseen = spots(world, newcomer(world, gpus=2, replicas=3))
    world.create(gpus=2, replicas=3)
    (decision,) = world.decide()
    assert isinstance(decision, Assign)
    assert [(spot.node_id, spot.gpus) for spot in foreseen] == [
        (spot.node_id, spot.gpus) for spot in decision.spots
    ]


def test_asking_changes_nothing(world: World) -> None:
    world.join(gpus=2)
    endpoint = newcomer(world, replicas=2)
    assert spots(world, endpoint) == spots(world, endpoint)
    require_capacity(world.view, endpoint, 2)
    assert not world.view.endpoints
    assert not world.decide()


def test_replicas_that_would_wait_are_counted_and_what_they_wait_for_is_named(
    world: World,
) -> None:
    world.join(gpus=1)
    error = refusal(world, newcomer(world, replicas=3))
    assert error.message.startswith(
        "2 of 3 replicas would wait: waiting for a free GPU on a cpu node in local"
    )
    assert error.facts["placeable_replicas"] == "1"


def test_those_who_wait_already_are_served_first(world: World) -> None:
    node_id = world.join(gpus=2)
    full = world.running(gpus=2)
    world.create(gpus=2)
    world.plan()
    world.tell(full, Stop())
    world.finish_draining(full)
    # Two GPUs are free, and the one that waits has not been planned yet.
    assert world.view.pools(next(iter(world.view.queues)))[0][1].free(node_id) == (0, 1)
    error = refusal(world, newcomer(world))
    assert "in place 2 of its queue" in error.message


def test_the_room_that_the_head_of_the_queue_keeps_is_not_taken(world: World) -> None:
    world.join(gpus=2)
    world.running(gpus=1)
    world.create(gpus=2)
    world.plan()
    refusal(world, newcomer(world))


def test_room_that_the_head_cannot_use_is_taken(world: World) -> None:
    world.join(gpus=4)
    world.running(gpus=2)
    world.create(gpus=4)
    small = world.join(gpus=1)
    world.plan()
    (spot,) = spots(world, newcomer(world))
    assert spot.node_id == small


def test_a_replica_needs_its_gpus_on_one_node(world: World) -> None:
    world.join(gpus=2)
    world.join(gpus=2)
    error = refusal(world, newcomer(world, gpus=3))
    assert "waiting for 3 free GPUs on one cpu node" in error.message


def test_what_is_not_known_yet_is_no_refusal(world: World) -> None:
    inventory = Inventory("host", "local", "cpu", 4, backends=frozenset({"torch"}))
    world.record("node/node_1", node.decide(None, Greet("node_1", inventory)))
    with pytest.raises(CapacityUnknownError):
        require_capacity(world.view, newcomer(world), 0)

    world.view.note_report("node_1", foreign=range(4))
    refusal(world, newcomer(world))


def test_a_checkpoint_that_is_still_being_registered_gets_no_gpus(world: World) -> None:
    world.join(gpus=4)
    with pytest.raises(CheckpointNotReadyError):
        require_capacity(world.view, newcomer(world, checkpoint=REGISTERING), 0)
