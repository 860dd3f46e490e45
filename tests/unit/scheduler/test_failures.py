"""Replicas that fail: tried again elsewhere, ever later, until it is plain that it cannot work."""

from datetime import timedelta

import pytest
from tests.unit.scheduler.world import START, World, last, names

from engineshed.api.scheduler.v1 import events_pb2 as pb
from engineshed.scheduler.domain.commands import Update
from engineshed.scheduler.domain.endpoint import EndpointState
from engineshed.scheduler.domain.failure import Failure, is_crash_loop, retry_at, row_after
from engineshed.scheduler.domain.replica import ReplicaState

E = EndpointState
S = ReplicaState


@pytest.fixture
def world() -> World:
    world = World()
    world.join(gpus=4)
    return world


def test_a_crashed_replica_gets_a_successor_with_a_new_id(world: World) -> None:
    endpoint_id = world.running()
    old = world.live(endpoint_id)[0].replica_id

    events = world.crash(endpoint_id)
    assert names(events) == ["ReplicaFailed", "EndpointProvisioning"]
    status = world.endpoint(endpoint_id).status
    assert status.reason == "trying again after TRITON_DIED: because"

    world.plan()
    assert world.live(endpoint_id) == [], "it pauses first"
    world.sleep(1)
    world.plan()
    assert world.live(endpoint_id)[0].replica_id != old


def test_a_replica_that_was_steady_is_replaced_at_once(world: World) -> None:
    endpoint_id = world.running()
    world.sleep(61)
    world.crash(endpoint_id)

    world.plan()
    assert len(world.live(endpoint_id)) == 1

    world.crash(endpoint_id)
    world.plan()
    assert world.live(endpoint_id) == [], "what fails again pauses first"


def test_the_pause_doubles_up_to_a_minute() -> None:
    row: tuple[Failure, ...] = ()
    pauses = []
    for number in range(9):
        at = START + timedelta(minutes=number)
        row = row_after(row, Failure(at, at, "n", "C", "r", early=True))
        due = retry_at(row)
        assert due is not None
        pauses.append((due - at).total_seconds())
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_another_node_is_preferred_after_a_failure(world: World) -> None:
    other = world.join(gpus=8)
    endpoint_id = world.running()
    assert world.nodes_of(endpoint_id) != [other], "the fuller node is the better one"

    world.crash(endpoint_id)
    world.sleep(1)
    world.plan()
    assert world.nodes_of(endpoint_id) == [other]


def test_the_same_node_serves_when_there_is_no_other(world: World) -> None:
    endpoint_id = world.running()
    (node_id,) = world.nodes_of(endpoint_id)
    world.crash(endpoint_id)
    world.sleep(1)
    world.plan()
    assert world.nodes_of(endpoint_id) == [node_id]


def test_a_failure_that_another_try_cannot_mend_fails_the_endpoint_at_once(world: World) -> None:
    endpoint_id = world.create()
    world.plan()
    events = world.crash(endpoint_id, code="OUT_OF_MEMORY", retryable=False)

    assert names(events) == ["ReplicaFailed", "EndpointFailed"]
    assert world.endpoint(endpoint_id).status.state is E.FAILED
    assert world.endpoint(endpoint_id).status.reason == "OUT_OF_MEMORY: because"


def test_failing_releases_the_replicas_that_are_not_ready_yet(world: World) -> None:
    endpoint_id = world.create(replicas=2)
    world.plan()
    events = world.crash(endpoint_id, retryable=False)
    assert names(events) == ["ReplicaFailed", "EndpointFailed", "ReplicaDraining"]


def test_an_endpoint_with_a_ready_replica_never_fails(world: World) -> None:
    endpoint_id = world.running(replicas=2)
    for _ in range(5):
        world.crash(endpoint_id, retryable=False)
        assert world.endpoint(endpoint_id).status.state is E.RUNNING
        assert world.endpoint(endpoint_id).status.degraded
        world.sleep(61)
        world.plan()
        assert len(world.live(endpoint_id)) == 2


def test_three_crashes_in_a_row_are_a_loop(world: World) -> None:
    endpoint_id = world.running()
    for _ in range(2):
        assert "EndpointFailed" not in names(world.crash(endpoint_id))
        world.sleep(10)
        world.plan()
    events = world.crash(endpoint_id)
    assert last(events, pb.EndpointFailed).code == "CRASH_LOOP"
    assert "TRITON_DIED: because" in world.endpoint(endpoint_id).status.reason


def test_replicas_that_crash_together_are_one_crash(world: World) -> None:
    endpoint_id = world.running(replicas=3)
    for _ in range(2):
        for _ in range(3):
            assert "EndpointFailed" not in names(world.crash(endpoint_id))
        world.sleep(10)
        world.plan()
        assert len(world.live(endpoint_id)) == 3
    assert last(world.crash(endpoint_id), pb.EndpointFailed).code == "CRASH_LOOP"


def test_a_loop_of_many_replicas_is_recognized(world: World) -> None:
    world.join(gpus=8)
    endpoint_id = world.running(replicas=12)
    for _ in range(2):
        for _ in range(12):
            world.crash(endpoint_id)
        world.sleep(10)
        world.plan()
    assert last(world.crash(endpoint_id), pb.EndpointFailed).code == "CRASH_LOOP"


def test_a_minute_of_being_ready_ends_the_row(world: World) -> None:
    endpoint_id = world.running()
    for _ in range(6):
        world.sleep(60)
        assert "EndpointFailed" not in names(world.crash(endpoint_id))
        world.sleep(1)
        world.plan()
        world.report(endpoint_id, world.live(endpoint_id)[0].replica_id, S.READY)


def test_crashes_more_than_ten_minutes_apart_are_no_loop(world: World) -> None:
    endpoint_id = world.create()
    for _ in range(5):
        world.plan()
        assert "EndpointFailed" not in names(world.crash(endpoint_id))
        world.sleep(301)


@pytest.mark.parametrize("code", ["NODE_RESTARTED", "STOPPED_BY_HOST"])
def test_a_stopped_host_is_no_crash_and_is_made_good_at_once(world: World, code: str) -> None:
    endpoint_id = world.running()
    for _ in range(5):
        world.crash(endpoint_id, code=code, retryable=False)
        assert not world.endpoint(endpoint_id).ended
        world.plan()
        assert len(world.live(endpoint_id)) == 1


def test_what_ends_without_being_asked_to_was_stopped_by_its_host(world: World) -> None:
    endpoint_id = world.running()
    replica_id = world.live(endpoint_id)[0].replica_id
    events = world.report(endpoint_id, replica_id, S.STOPPED)
    assert isinstance(events[0], pb.ReplicaFailed)
    assert events[0].code == "STOPPED_BY_HOST"


def test_a_replica_that_fails_while_it_drains_counts_as_gone_only(world: World) -> None:
    endpoint_id = world.running(replicas=2)
    world.tell(endpoint_id, Update(min_replicas=1))
    draining = [one for one in world.endpoint(endpoint_id).replicas if one.state is S.DRAINING]
    events = world.report(
        endpoint_id, draining[0].replica_id, S.FAILED, code="TRITON_DIED", retryable=False
    )
    assert names(events) == ["ReplicaFailed"]
    assert world.endpoint(endpoint_id).failures == ()


def test_a_loop_needs_three_early_crashes_within_the_window() -> None:
    def row(*seconds: int) -> list[Failure]:
        moments = [START + timedelta(seconds=second) for second in seconds]
        return [Failure(at, at, "n", "C", "r", early=True) for at in moments]

    assert not is_crash_loop(row(0, 1))
    assert is_crash_loop(row(0, 300, 600))
    assert not is_crash_loop(row(0, 300, 601))
    assert is_crash_loop(row(0, 300, 601, 700))
