"""Why replicas are not placed, as plan() sees it."""

from tests.unit.scheduler.world import World

from engineshed.scheduler.domain.commands import Redeployment, Update
from engineshed.scheduler.domain.explain import Wait, explain_wait
from engineshed.scheduler.domain.score import Policy


def wait(world: World, endpoint_id: str) -> Wait | None:
    return explain_wait(world.view, world.endpoint(endpoint_id), Policy(), world.now)


def test_whoever_misses_nothing_waits_for_nothing() -> None:
    world = World()
    world.join()

    assert wait(world, world.running()) is None


def test_the_head_of_the_queue_is_told_which_node_is_kept_for_it() -> None:
    world = World()
    node_id = world.join(gpus=4)
    world.running(gpus=3)
    first, second = world.create(gpus=4), world.create(gpus=2)
    world.plan()

    head = wait(world, first)
    assert head is not None
    assert (head.missing, head.position, head.length) == (1, 1, 2)
    assert head.nominated == node_id
    assert head.reason == "waiting for 4 free GPUs on one cpu node in local"
    assert head.rejected == {"gpus_taken": 1}
    next_one = wait(world, second)
    assert next_one is not None
    assert (next_one.position, next_one.nominated) == (2, "")


def test_one_that_waits_behind_the_head_is_told_that_the_node_is_kept() -> None:
    world = World()
    world.join(gpus=4)
    world.running(gpus=2)
    world.create(gpus=4)
    small = world.create(gpus=1)
    world.plan()

    found = wait(world, small)
    assert found is not None
    assert found.rejected == {"kept_for_head_of_queue": 1}


def test_a_pause_after_a_failure_says_until_when() -> None:
    world = World()
    world.join()
    endpoint_id = world.create()
    world.plan()
    world.crash(endpoint_id)

    found = wait(world, endpoint_id)
    assert found is not None
    assert found.retry_at == world.endpoint(endpoint_id).retry_at
    assert found.reason == "trying again after TRITON_DIED: because"


def test_a_rollout_that_waits_for_room_is_explained_by_what_it_needs() -> None:
    world = World()
    world.join(gpus=4)
    endpoint_id = world.running(gpus=1)
    world.tell(endpoint_id, Update(redeployment=Redeployment(gpu_count=4)))
    world.plan()

    found = wait(world, endpoint_id)
    assert found is not None
    assert found.reason == "waiting for 4 free GPUs on one cpu node in local"


def test_explaining_changes_nothing() -> None:
    world = World()
    world.join(gpus=1)
    first, second = world.create(), world.create()

    before = world.decide()
    assert wait(world, first) == wait(world, first)
    wait(world, second)

    assert world.decide() == before
