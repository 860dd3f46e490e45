"""From created to terminated, as its owner sees it."""

import pytest
from tests.unit.scheduler.world import REGISTERED, REGISTERING, World, names

from engineshed.errors import DomainError, InvalidFieldError
from engineshed.scheduler.domain.commands import (
    Delete,
    Fail,
    Restart,
    Stop,
    Update,
    UseCheckpoint,
)
from engineshed.scheduler.domain.endpoint import EndpointState
from engineshed.scheduler.domain.errors import (
    EndpointNotFoundError,
    EtagMismatchError,
    ExceedsFleetError,
    WrongStateError,
)
from engineshed.scheduler.domain.replica import ReplicaState
from engineshed.scheduler.domain.scaling import Scaling

E = EndpointState
S = ReplicaState


@pytest.fixture
def world() -> World:
    world = World()
    world.join(gpus=4)
    return world


def test_a_new_endpoint_is_placed_built_and_runs(world: World) -> None:
    endpoint_id = world.create()
    assert world.endpoint(endpoint_id).status.state is E.QUEUED

    world.plan()
    assert world.endpoint(endpoint_id).status.state is E.PROVISIONING
    (replica,) = world.live(endpoint_id)
    for state in (S.FETCHING, S.BUILDING, S.LOADING):
        world.report(endpoint_id, replica.replica_id, state)
        assert world.endpoint(endpoint_id).status.state is E.PROVISIONING
    events = world.report(endpoint_id, replica.replica_id, S.READY)

    assert names(events) == ["ReplicaReady", "EndpointRunning"]
    assert world.endpoint(endpoint_id).status.state is E.RUNNING
    assert world.endpoint(endpoint_id).ever_ready


def test_placing_records_the_new_status_in_the_same_append(world: World) -> None:
    endpoint_id = world.create()
    world.plan()

    assert names([event for stream, event, _ in world.log if endpoint_id in stream]) == [
        "EndpointCreated",
        "ReplicaPlaced",
        "EndpointProvisioning",
    ]


def test_it_runs_degraded_until_all_its_replicas_are_ready(world: World) -> None:
    endpoint_id = world.create(replicas=2)
    world.plan()
    first, second = world.live(endpoint_id)

    world.report(endpoint_id, first.replica_id, S.READY)
    assert world.endpoint(endpoint_id).status.degraded
    events = world.report(endpoint_id, second.replica_id, S.READY)

    assert names(events) == ["ReplicaReady", "EndpointRunning"]
    assert not world.endpoint(endpoint_id).status.degraded


def test_what_does_not_fit_waits_and_says_for_what(world: World) -> None:
    world.running(gpus=3)
    endpoint_id = world.create(gpus=2)
    world.plan()

    status = world.endpoint(endpoint_id).status
    assert status.state is E.QUEUED
    assert status.reason == "waiting for 2 free GPUs on one cpu node in local"
    assert world.plan() == [], "it waits for the same, so nothing new is recorded"


def test_stopping_drains_and_releases_the_gpus_when_the_processes_are_gone(world: World) -> None:
    endpoint_id = world.running(gpus=4)
    waiting = world.create(gpus=4)

    events = world.tell(endpoint_id, Stop())
    assert names(events) == ["EndpointStopping", "ReplicaDraining"]
    world.plan()
    assert world.live(waiting) == [], "a draining replica keeps its GPUs"

    world.finish_draining(endpoint_id)
    assert world.endpoint(endpoint_id).status.state is E.STOPPED
    world.plan()
    assert len(world.live(waiting)) == 1


def test_stopping_what_runs_nowhere_stops_at_once(world: World) -> None:
    endpoint_id = world.create(gpus=4, replicas=1)

    assert names(world.tell(endpoint_id, Stop())) == ["EndpointStopping", "EndpointStopped"]
    assert world.tell(endpoint_id, Stop()) == [], "stopping again changes nothing"


def test_restarting_brings_back_the_same_configuration(world: World) -> None:
    endpoint_id = world.running()
    before = world.endpoint(endpoint_id)
    world.tell(endpoint_id, Stop())
    world.finish_draining(endpoint_id)

    world.tell(endpoint_id, Restart())
    world.plan()

    after = world.endpoint(endpoint_id)
    assert after.status.state is E.PROVISIONING
    assert (after.checkpoint, after.serving, after.routing_key) == (
        before.checkpoint,
        before.serving,
        before.routing_key,
    )
    assert after.ever_ready, "a restart keeps it"
    assert world.tell(endpoint_id, Restart()) == [], "restarting an enabled one changes nothing"


def test_restarting_while_it_stops_places_anew_and_lets_the_old_ones_drain(world: World) -> None:
    endpoint_id = world.running()
    world.tell(endpoint_id, Stop())
    world.tell(endpoint_id, Restart())
    world.plan()

    states = [replica.state for replica in world.endpoint(endpoint_id).replicas]
    assert states == [S.DRAINING, S.PLACED]


def test_deleting_is_final_and_lets_the_replicas_drain(world: World) -> None:
    endpoint_id = world.running()

    assert names(world.tell(endpoint_id, Delete())) == ["EndpointTerminated", "ReplicaDraining"]
    assert world.view.finished == frozenset()
    assert world.tell(endpoint_id, Delete()) == [], "deleting it again changes nothing"
    with pytest.raises(WrongStateError, match="stopping or stopped"):
        world.tell(endpoint_id, Restart())

    world.finish_draining(endpoint_id)
    assert world.view.finished == {endpoint_id}


def test_a_failed_endpoint_can_only_be_deleted(world: World) -> None:
    endpoint_id = world.running()
    events = world.tell(endpoint_id, Fail("CHECKPOINT_DELETED", "it is gone"))
    assert names(events) == ["EndpointFailed", "ReplicaDraining"]

    for command in (Stop(), Restart(), Update(name="other"), Update(enabled=True)):
        with pytest.raises(WrongStateError, match="can only be deleted"):
            world.tell(endpoint_id, command)
    world.tell(endpoint_id, Delete())
    assert world.endpoint(endpoint_id).status.state is E.TERMINATED


def test_a_registering_checkpoint_is_waited_for(world: World) -> None:
    endpoint_id = world.create(checkpoint=REGISTERING)
    world.plan()
    status = world.endpoint(endpoint_id).status
    assert status.state is E.PROVISIONING
    assert status.reason == "waiting for checkpoint ckpt_1 to be registered"
    assert world.live(endpoint_id) == []
    assert world.view.awaiting("ckpt_1") == {endpoint_id}

    world.tell(endpoint_id, UseCheckpoint(REGISTERED))
    world.plan()
    assert world.endpoint(endpoint_id).checkpoint.digest == REGISTERED.digest
    assert len(world.live(endpoint_id)) == 1
    assert world.view.awaited_checkpoints == set()


def test_only_what_is_given_is_updated(world: World) -> None:
    endpoint_id = world.running()
    events = world.tell(endpoint_id, Update(description="for support"))

    assert names(events) == ["EndpointRenamed"]
    endpoint = world.endpoint(endpoint_id)
    assert (endpoint.name, endpoint.description) == ("bot", "for support")
    assert world.tell(endpoint_id, Update(description="for support")) == []


def test_versions_count_what_the_owner_specified_only(world: World) -> None:
    endpoint_id = world.create()
    etag = world.endpoint(endpoint_id).etag
    world.plan()
    world.report(endpoint_id, world.live(endpoint_id)[0].replica_id, S.READY)
    assert world.endpoint(endpoint_id).etag == etag

    world.tell(endpoint_id, Update(etag=etag, name="other"))
    assert world.endpoint(endpoint_id).version == 2
    with pytest.raises(EtagMismatchError):
        world.tell(endpoint_id, Update(etag=etag, name="third"))
    with pytest.raises(EtagMismatchError):
        world.tell(endpoint_id, Delete(etag=etag))


def test_scaling_down_drains_the_newest_replicas(world: World) -> None:
    endpoint_id = world.running(replicas=3)
    oldest = world.live(endpoint_id)[0].replica_id

    events = world.tell(endpoint_id, Update(min_replicas=1))
    assert names(events) == ["EndpointScaled", "ReplicaDraining", "ReplicaDraining"]
    assert [replica.replica_id for replica in world.live(endpoint_id)] == [oldest]
    assert world.endpoint(endpoint_id).status.state is E.RUNNING


def test_scaling_down_spares_those_that_are_ready(world: World) -> None:
    endpoint_id = world.create(replicas=2)
    world.plan()
    slow, quick = world.live(endpoint_id)
    world.report(endpoint_id, quick.replica_id, S.READY)

    world.tell(endpoint_id, Update(min_replicas=1))
    assert world.live(endpoint_id)[0].replica_id == quick.replica_id
    assert world.endpoint(endpoint_id).replica(slow.replica_id).state is S.DRAINING  # type: ignore[union-attr]  # it is there


def test_scaling_up_keeps_what_runs_and_places_more(world: World) -> None:
    endpoint_id = world.running()
    running = world.live(endpoint_id)[0].replica_id

    events = world.tell(endpoint_id, Update(min_replicas=2, max_replicas=2))
    assert names(events) == ["EndpointScaled", "EndpointRunning"]
    assert world.endpoint(endpoint_id).status.degraded
    world.plan()
    assert next(replica.replica_id for replica in world.live(endpoint_id)) == running
    assert len(world.live(endpoint_id)) == 2


@pytest.mark.parametrize(
    ("update", "field"),
    [
        (Update(min_replicas=0, max_replicas=0), "scaling.max_replicas"),
        (Update(min_replicas=2), "scaling.max_replicas"),
        (Update(name=""), "name"),
    ],
)
def test_an_update_that_makes_no_sense_names_the_field(
    world: World, update: Update, field: str
) -> None:
    endpoint_id = world.running()
    with pytest.raises(InvalidFieldError) as refused:
        world.tell(endpoint_id, update)
    assert refused.value.fields[0].field == field
    assert world.endpoint(endpoint_id).scaling == Scaling(1, 1)


def test_scaling_beyond_the_fleet_is_refused(world: World) -> None:
    endpoint_id = world.running()
    update = Update(min_replicas=5, max_replicas=5, most_replicas=4)
    with pytest.raises(ExceedsFleetError):
        world.tell(endpoint_id, update)


def test_disabling_by_an_update_stops_and_enabling_restarts(world: World) -> None:
    endpoint_id = world.running()
    world.tell(endpoint_id, Update(enabled=False))
    assert world.endpoint(endpoint_id).status.state is E.STOPPING
    world.finish_draining(endpoint_id)
    events = world.tell(endpoint_id, Update(enabled=True, name="again"))
    assert names(events) == ["EndpointRenamed", "EndpointRestarted"]


def test_an_unknown_endpoint_is_not_found() -> None:
    with pytest.raises(EndpointNotFoundError) as refused:
        World().tell("ep_none", Stop())
    assert isinstance(refused.value, DomainError)


def test_ended_replicas_are_shown_for_ten_minutes(world: World) -> None:
    endpoint_id = world.running()
    world.crash(endpoint_id)
    world.sleep(599)
    world.plan()
    assert len(world.endpoint(endpoint_id).replicas) == 2
    world.sleep(2)
    world.crash(endpoint_id)
    assert len(world.endpoint(endpoint_id).replicas) == 1
