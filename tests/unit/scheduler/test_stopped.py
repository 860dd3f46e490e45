"""Since when endpoints have been stopped, which decides when they are purged."""

from datetime import datetime

import pytest

from engineshed.api.scheduler.v1 import events_pb2 as pb
from engineshed.scheduler.domain.commands import Delete, Restart, Stop, Update
from engineshed.scheduler.domain.view import View

from .world import START, World, names


@pytest.fixture
def world() -> World:
    world = World()
    world.join()
    return world


def stopped(world: World) -> list[tuple[str, float]]:
    """Return what is stopped in order, and how many seconds after the start that began."""
    return [(one, (at - START).total_seconds()) for one, at in world.view.stopped.items()]


def stop(world: World, endpoint_id: str) -> None:
    world.tell(endpoint_id, Stop())
    world.finish_draining(endpoint_id)


def test_it_counts_from_the_moment_its_last_replica_was_gone(world: World) -> None:
    endpoint_id = world.running()
    world.sleep(10)
    world.tell(endpoint_id, Stop())
    assert stopped(world) == []
    world.sleep(5)

    world.finish_draining(endpoint_id)

    assert stopped(world) == [(endpoint_id, 15)]


def test_those_come_first_that_were_stopped_first(world: World) -> None:
    first, second, third = (world.running() for _ in range(3))
    for endpoint_id in (second, third, first):
        world.sleep(1)
        stop(world, endpoint_id)

    assert stopped(world) == [(second, 1), (third, 2), (first, 3)]


def test_a_new_name_is_no_use_of_it(world: World) -> None:
    endpoint_id = world.running()
    stop(world, endpoint_id)
    world.sleep(60)

    world.tell(endpoint_id, Update(name="another"))

    assert stopped(world) == [(endpoint_id, 0)]


def test_a_restart_begins_anew(world: World) -> None:
    endpoint_id, other = world.running(), world.running()
    stop(world, endpoint_id)
    stop(world, other)
    world.sleep(60)
    world.tell(endpoint_id, Restart())
    assert stopped(world) == [(other, 0)]

    stop(world, endpoint_id)

    assert stopped(world) == [(other, 0), (endpoint_id, 60)]


def test_a_terminated_one_is_stopped_no_more_and_says_why(world: World) -> None:
    endpoint_id = world.running()
    stop(world, endpoint_id)

    events = world.tell(endpoint_id, Delete(reason="stopped for 14 days"))

    assert names(events) == ["EndpointTerminated"]
    assert isinstance(events[0], pb.EndpointTerminated)
    assert events[0].reason == "stopped for 14 days"
    assert stopped(world) == []


def test_the_log_alone_tells_it(world: World) -> None:
    first, second = world.running(), world.running()
    world.sleep(7)
    stop(world, second)
    world.sleep(7)
    stop(world, first)
    later = View()

    for stream, event, at in world.log:
        later.apply(stream, event, at)

    expected: dict[str, datetime] = dict(world.view.stopped)
    assert list(later.stopped.items()) == list(expected.items())
