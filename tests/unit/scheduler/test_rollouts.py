"""Changing what replicas run: make before break, and never at the cost of what serves."""

import pytest
from tests.unit.scheduler.world import PLAIN, REGISTERED, REGISTERING, World, names

from engineshed.scheduler.domain.commands import (
    Delete,
    Leave,
    Redeployment,
    Restart,
    Rollback,
    Stop,
    Update,
    UseCheckpoint,
)
from engineshed.scheduler.domain.desired import desired_replicas, route_of
from engineshed.scheduler.domain.endpoint import EndpointState, Strategy
from engineshed.scheduler.domain.errors import (
    EtagMismatchError,
    NothingToRollBackError,
    WrongStateError,
)
from engineshed.scheduler.domain.filters import what_is_missing
from engineshed.scheduler.domain.replica import Checkpoint, ReplicaState

E = EndpointState
S = ReplicaState

BETTER = Checkpoint("ckpt_2", "sha256:2", "checkpoints/ckpt_2")
TO_BETTER = Update(redeployment=Redeployment(checkpoint=BETTER))


@pytest.fixture
def world() -> World:
    world = World()
    world.join(gpus=4)
    return world


def numbers(world: World, endpoint_id: str) -> list[tuple[int, str]]:
    """Return deployment and state of what is not gone, oldest first."""
    replicas = world.endpoint(endpoint_id).occupying()
    return [(one.deployment.number, one.state.name) for one in replicas]


def becomes_ready(world: World, endpoint_id: str) -> list[str]:
    """Let the newest replica be ready; return what that makes true."""
    replica = world.live(endpoint_id)[-1]
    assert replica.state is not S.READY
    return names(world.report(endpoint_id, replica.replica_id, S.READY))


def test_the_old_replica_serves_until_the_new_one_does(world: World) -> None:
    endpoint_id = world.running()

    assert names(world.tell(endpoint_id, TO_BETTER)) == ["EndpointRedeployed"]
    assert numbers(world, endpoint_id) == [(1, "READY")]
    world.plan()
    assert numbers(world, endpoint_id) == [(1, "READY"), (2, "PLACED")]
    assert len(route_of(world.endpoint(endpoint_id), str).replicas) == 1

    assert becomes_ready(world, endpoint_id) == ["ReplicaReady", "ReplicaDraining"]
    assert numbers(world, endpoint_id) == [(1, "DRAINING"), (2, "READY")]
    assert world.endpoint(endpoint_id).rollout is not None
    world.finish_draining(endpoint_id)

    endpoint = world.endpoint(endpoint_id)
    assert endpoint.rollout is None
    assert endpoint.checkpoint == BETTER
    assert endpoint.status.state is E.RUNNING
    assert not endpoint.status.degraded


def test_each_replica_gets_what_its_own_deployment_says(world: World) -> None:
    endpoint_id = world.running()
    world.tell(endpoint_id, TO_BETTER)
    world.plan()

    (node_id,) = world.view.nodes
    old, new = desired_replicas(world.view, node_id, str, world.now - world.now)

    assert old.checkpoint_digest == REGISTERED.digest
    assert new.checkpoint_digest == BETTER.digest


def test_only_one_more_than_wanted_is_there_at_a_time(world: World) -> None:
    endpoint_id = world.running(replicas=3)
    world.tell(endpoint_id, TO_BETTER)

    for _ in range(3):
        world.plan()
        assert len(world.live(endpoint_id)) == 4
        world.plan()
        assert len(world.live(endpoint_id)) == 4
        becomes_ready(world, endpoint_id)
        assert world.endpoint(endpoint_id).ready == 3
        world.finish_draining(endpoint_id)

    assert numbers(world, endpoint_id) == [(2, "READY")] * 3
    assert world.endpoint(endpoint_id).rollout is None


def test_where_there_is_no_room_for_one_more_it_waits_and_says_so(world: World) -> None:
    endpoint_id = world.running(gpus=4)
    world.tell(endpoint_id, TO_BETTER)
    world.plan()

    endpoint = world.endpoint(endpoint_id)
    assert numbers(world, endpoint_id) == [(1, "READY")]
    assert endpoint.status.state is E.RUNNING
    assert "waiting for 4 free GPUs" in what_is_missing(world.view, endpoint, world.now)

    world.join(gpus=4)
    world.plan()
    assert numbers(world, endpoint_id) == [(1, "READY"), (2, "PLACED")]


def test_recreating_stops_the_old_ones_first(world: World) -> None:
    endpoint_id = world.running(gpus=2, replicas=2)
    update = Update(redeployment=Redeployment(checkpoint=BETTER, strategy=Strategy.RECREATE))

    events = world.tell(endpoint_id, update)
    assert names(events)[:3] == ["EndpointRedeployed", "ReplicaDraining", "ReplicaDraining"]
    world.plan()
    assert len(world.live(endpoint_id)) == 0
    world.finish_draining(endpoint_id)
    world.plan()

    assert numbers(world, endpoint_id) == [(2, "PLACED")] * 2


def test_a_rollout_that_cannot_be_served_leaves_what_serves_alone(world: World) -> None:
    endpoint_id = world.running(replicas=2)
    world.tell(endpoint_id, TO_BETTER)
    world.plan()

    events = world.crash(endpoint_id, code="DOES_NOT_FIT", retryable=False)

    assert names(events) == ["ReplicaFailed", "EndpointRolloutFailed"]
    world.plan()
    endpoint = world.endpoint(endpoint_id)
    assert numbers(world, endpoint_id) == [(1, "READY")] * 2
    assert endpoint.status.state is E.RUNNING
    assert not endpoint.status.degraded
    assert endpoint.rollout is not None
    assert endpoint.rollout.failure == "DOES_NOT_FIT: because"
    assert endpoint.checkpoint == BETTER, "what was asked for is still shown"


def test_a_rollout_that_crashes_again_and_again_fails(world: World) -> None:
    endpoint_id = world.running()
    world.tell(endpoint_id, TO_BETTER)

    for _ in range(2):
        world.plan()
        assert names(world.crash(endpoint_id)) == ["ReplicaFailed"]
        world.sleep(61)
    world.plan()

    assert names(world.crash(endpoint_id)) == ["ReplicaFailed", "EndpointRolloutFailed"]
    assert "CRASH_LOOP" in world.endpoint(endpoint_id).rollout.failure  # type: ignore[union-attr]  # there is one


def test_new_replicas_that_serve_stay_when_their_rollout_fails(world: World) -> None:
    endpoint_id = world.running(replicas=2)
    world.tell(endpoint_id, TO_BETTER)
    world.plan()
    becomes_ready(world, endpoint_id)
    world.finish_draining(endpoint_id)
    world.plan()
    world.crash(endpoint_id, code="DOES_NOT_FIT", retryable=False)
    world.plan()

    assert numbers(world, endpoint_id) == [(1, "READY"), (2, "READY")]


def test_what_a_failed_rollout_leaves_missing_is_replaced_by_what_was_before(world: World) -> None:
    endpoint_id = world.running()
    world.tell(endpoint_id, TO_BETTER)
    world.plan()
    world.crash(endpoint_id, code="DOES_NOT_FIT", retryable=False)

    world.crash(endpoint_id)
    world.sleep(61)
    world.plan()

    assert numbers(world, endpoint_id) == [(1, "PLACED")]
    assert world.live(endpoint_id)[0].deployment.checkpoint == REGISTERED


def test_recreating_falls_back_when_the_new_one_cannot_be_served(world: World) -> None:
    endpoint_id = world.running()
    update = Update(redeployment=Redeployment(checkpoint=BETTER, strategy=Strategy.RECREATE))
    world.tell(endpoint_id, update)
    world.finish_draining(endpoint_id)
    world.plan()
    world.crash(endpoint_id, code="DOES_NOT_FIT", retryable=False)
    world.plan()

    assert world.endpoint(endpoint_id).status.state is E.PROVISIONING
    assert numbers(world, endpoint_id) == [(1, "PLACED")]


def test_rolling_back_needs_no_new_replica_when_the_old_ones_are_there(world: World) -> None:
    endpoint_id = world.running(replicas=2)
    world.tell(endpoint_id, TO_BETTER)
    world.plan()

    events = world.tell(endpoint_id, Rollback())

    assert names(events) == ["EndpointRolledBack", "ReplicaDraining"]
    world.finish_draining(endpoint_id)
    world.plan()
    endpoint = world.endpoint(endpoint_id)
    assert numbers(world, endpoint_id) == [(1, "READY")] * 2
    assert endpoint.checkpoint == REGISTERED
    assert endpoint.rollout is None


def test_rolling_back_half_a_rollout_is_make_before_break_too(world: World) -> None:
    endpoint_id = world.running(replicas=2)
    world.tell(endpoint_id, TO_BETTER)
    world.plan()
    becomes_ready(world, endpoint_id)
    world.finish_draining(endpoint_id)

    world.tell(endpoint_id, Rollback())
    assert numbers(world, endpoint_id) == [(1, "READY"), (2, "READY")]
    world.plan()
    becomes_ready(world, endpoint_id)
    world.finish_draining(endpoint_id)

    assert numbers(world, endpoint_id) == [(1, "READY")] * 2


def test_asking_for_what_was_before_is_rolling_back(world: World) -> None:
    endpoint_id = world.running()
    world.tell(endpoint_id, TO_BETTER)

    back = Update(redeployment=Redeployment(checkpoint=REGISTERED))

    assert names(world.tell(endpoint_id, back)) == ["EndpointRolledBack"]


def test_asking_again_for_what_failed_tries_it_again(world: World) -> None:
    endpoint_id = world.running()
    world.tell(endpoint_id, TO_BETTER)
    assert world.tell(endpoint_id, TO_BETTER) == []
    world.plan()
    world.crash(endpoint_id, code="DOES_NOT_FIT", retryable=False)

    assert names(world.tell(endpoint_id, TO_BETTER)) == ["EndpointRedeployed"]
    world.plan()

    assert numbers(world, endpoint_id) == [(1, "READY"), (3, "PLACED")]
    assert world.endpoint(endpoint_id).deployments == 3


def test_another_change_before_the_first_is_through_falls_back_to_what_served(
    world: World,
) -> None:
    endpoint_id = world.running()
    world.tell(endpoint_id, TO_BETTER)
    world.plan()
    world.tell(endpoint_id, Update(redeployment=Redeployment(max_context=512)))

    assert numbers(world, endpoint_id) == [(1, "READY"), (2, "DRAINING")]
    world.finish_draining(endpoint_id)
    world.plan()
    world.crash(endpoint_id, code="DOES_NOT_FIT", retryable=False)

    endpoint = world.endpoint(endpoint_id)
    assert endpoint.placing.number == 1
    assert (endpoint.checkpoint, endpoint.serving.max_context) == (BETTER, 512)


@pytest.mark.parametrize(
    "asked",
    [
        Redeployment(max_batch_size=8),
        Redeployment(max_batch_tokens=1024),
        Redeployment(kv_cache_fraction=0.5),
    ],
)
def test_how_large_batches_and_the_cache_are_is_part_of_a_deployment(
    world: World, asked: Redeployment
) -> None:
    endpoint_id = world.running()
    update = Update(redeployment=asked)

    assert names(world.tell(endpoint_id, update)) == ["EndpointRedeployed"]
    assert world.tell(endpoint_id, update) == []
    assert world.endpoint(endpoint_id).rollout is not None
    assert world.endpoint(endpoint_id).serving != PLAIN
    back = Update(
        redeployment=Redeployment(max_batch_size=0, max_batch_tokens=0, kv_cache_fraction=0)
    )
    assert names(world.tell(endpoint_id, back)) == ["EndpointRolledBack"]


def test_there_is_nothing_to_roll_back_without_a_rollout(world: World) -> None:
    endpoint_id = world.running()
    with pytest.raises(NothingToRollBackError):
        world.tell(endpoint_id, Rollback())

    world.tell(endpoint_id, TO_BETTER)
    with pytest.raises(EtagMismatchError):
        world.tell(endpoint_id, Rollback(etag="v1"))
    world.tell(endpoint_id, Delete())
    with pytest.raises(WrongStateError):
        world.tell(endpoint_id, Rollback())


def test_nothing_is_protected_before_anything_has_served(world: World) -> None:
    endpoint_id = world.create()
    world.plan()

    events = world.tell(endpoint_id, TO_BETTER)

    assert names(events) == ["EndpointRedeployed", "ReplicaDraining", "EndpointQueued"]
    assert world.endpoint(endpoint_id).rollout is None
    world.plan()
    world.crash(endpoint_id, code="DOES_NOT_FIT", retryable=False)
    assert world.endpoint(endpoint_id).status.state is E.FAILED


def test_a_stopped_endpoint_starts_with_what_it_was_changed_to(world: World) -> None:
    endpoint_id = world.running()
    world.tell(endpoint_id, Stop())
    world.finish_draining(endpoint_id)
    assert names(world.tell(endpoint_id, TO_BETTER)) == ["EndpointRedeployed"]
    world.tell(endpoint_id, Restart())
    world.plan()

    assert numbers(world, endpoint_id) == [(2, "PLACED")]
    assert world.endpoint(endpoint_id).rollout is None


def test_stopping_in_the_middle_of_a_rollout_stops_all(world: World) -> None:
    endpoint_id = world.running()
    world.tell(endpoint_id, TO_BETTER)
    world.plan()
    world.tell(endpoint_id, Stop())
    assert {state for _, state in numbers(world, endpoint_id)} == {"DRAINING"}
    world.finish_draining(endpoint_id)
    assert world.endpoint(endpoint_id).status.state is E.STOPPED

    world.tell(endpoint_id, Restart())
    world.plan()
    becomes_ready(world, endpoint_id)

    assert numbers(world, endpoint_id) == [(2, "READY")]
    assert world.endpoint(endpoint_id).rollout is None


def test_other_gpus_mean_another_queue(world: World) -> None:
    world.join(gpus=8, gpu_type="h100-sxm")
    endpoint_id = world.running()
    world.tell(endpoint_id, Update(redeployment=Redeployment(gpu_type="h100-sxm", gpu_count=2)))
    world.plan_incrementally()

    new = world.live(endpoint_id)[-1]
    assert len(new.gpus) == 2
    assert world.view.nodes[new.node_id].inventory.gpu_type == "h100-sxm"
    becomes_ready(world, endpoint_id)
    world.finish_draining(endpoint_id)
    assert [key.gpu_type for key in world.view.queues] == []


def test_the_loss_of_old_replicas_is_made_up_for_by_new_ones(world: World) -> None:
    world.join(gpus=4)
    endpoint_id = world.running(replicas=2)
    world.tell(endpoint_id, TO_BETTER)
    world.plan()
    lost = world.live(endpoint_id)[0].node_id

    world.lose(lost)
    world.plan()

    live = world.live(endpoint_id)
    assert len(live) == 3
    assert sum(one.deployment.number == 2 for one in live) == 2


def test_a_waiting_checkpoint_that_is_given_up_for_another_is_awaited_no_more(
    world: World,
) -> None:
    endpoint_id = world.create(checkpoint=REGISTERING)
    world.tell(endpoint_id, TO_BETTER)

    assert list(world.view.awaited_checkpoints) == []
    assert world.tell(endpoint_id, UseCheckpoint(REGISTERED)) == []
    world.plan()
    assert world.live(endpoint_id)[0].deployment.checkpoint == BETTER


def test_a_replica_that_is_to_leave_serves_until_it_is_replaced(world: World) -> None:
    other = world.join(gpus=4)
    endpoint_id = world.running()
    old = world.live(endpoint_id)[0]

    leave = Leave((old.replica_id,), "its node is being drained")
    assert names(world.tell(endpoint_id, leave)) == ["ReplicaLeaving"]
    assert world.tell(endpoint_id, leave) == []
    world.plan()
    new = world.live(endpoint_id)[-1]
    assert new.node_id == other, "a node with a replica of the same endpoint is worse"
    events = world.report(endpoint_id, new.replica_id, S.READY)

    assert names(events) == ["ReplicaReady", "ReplicaDraining"]
    assert events[-1].reason == "its node is being drained"  # type: ignore[union-attr]  # draining has one
    assert not world.endpoint(endpoint_id).status.degraded


def test_a_replica_that_is_to_leave_before_it_serves_goes_at_once(world: World) -> None:
    endpoint_id = world.create()
    world.plan()
    (replica,) = world.live(endpoint_id)

    events = world.tell(endpoint_id, Leave((replica.replica_id,), "its node is being drained"))

    assert names(events)[:2] == ["ReplicaLeaving", "ReplicaDraining"]
    world.plan()
    assert len(world.live(endpoint_id)) == 1


def test_scaling_down_in_a_rollout_takes_the_old_ones(world: World) -> None:
    endpoint_id = world.running(replicas=3)
    world.tell(endpoint_id, TO_BETTER)
    world.plan()
    becomes_ready(world, endpoint_id)
    world.tell(endpoint_id, Update(min_replicas=1, max_replicas=1))
    world.finish_draining(endpoint_id)

    assert numbers(world, endpoint_id) == [(2, "READY")]
    assert world.endpoint(endpoint_id).rollout is None
