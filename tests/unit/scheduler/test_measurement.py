"""What a replica that has become ready says of the memory of its engine."""

import pytest
from tests.unit.scheduler.world import World

from engineshed.scheduler.domain.commands import Redeployment, Report, Update
from engineshed.scheduler.domain.endpoint import EndpointEvent
from engineshed.scheduler.domain.measurement import Combination, Measurement, measured
from engineshed.scheduler.domain.replica import ReplicaState, Serving

S = ReplicaState
SERVING = Serving(512, "bfloat16", "fp8", 8, 1024, 0.5)


@pytest.fixture
def world() -> World:
    world = World()
    world.join(gpus=4, backends=frozenset({"tensorrt_llm"}))
    return world


def ready(world: World, endpoint_id: str, memory_bytes: int) -> list[EndpointEvent]:
    """Let the newest replica of an endpoint report that it is ready."""
    replica = world.live(endpoint_id)[-1]
    report = Report(
        replica.replica_id,
        S.READY,
        world.now,
        engine_backend="tensorrt_llm",
        engine_memory_bytes=memory_bytes,
    )
    return world.tell(endpoint_id, report)


def measurements(world: World, endpoint_id: str, events: list[EndpointEvent]) -> list[Measurement]:
    return list(measured(world.endpoint(endpoint_id), events))


def test_what_was_seen_is_kept_with_all_that_decides_it(world: World) -> None:
    endpoint_id = world.create(gpus=2, serving=SERVING)
    world.plan()

    events = ready(world, endpoint_id, 20_000)

    combination = Combination("org_1", "sha256:1", "cpu", 2, "bfloat16", "fp8", 512, 8, 1024)
    assert measurements(world, endpoint_id, events) == [
        Measurement(combination, "tensorrt_llm", 20_000)
    ]


def test_who_did_not_measure_says_nothing_and_later_reports_do_not_either(world: World) -> None:
    endpoint_id = world.create()
    world.plan()

    assert measurements(world, endpoint_id, ready(world, endpoint_id, 0)) == []
    assert ready(world, endpoint_id, 20_000) == []


def test_each_deployment_has_its_own(world: World) -> None:
    endpoint_id = world.create()
    world.plan()
    ready(world, endpoint_id, 20_000)
    world.tell(endpoint_id, Update(redeployment=Redeployment(max_batch_size=16)))
    world.plan()

    (found,) = measurements(world, endpoint_id, ready(world, endpoint_id, 21_000))

    assert (found.combination.max_batch_size, found.memory_bytes) == (16, 21_000)
