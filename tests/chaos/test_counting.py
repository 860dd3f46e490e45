"""What the run counts is there when it is there."""

from dataclasses import replace

import pytest
from tests.chaos.accounts import Comparison, Published, compare, gpus_held_twice
from tests.chaos.promise import Problem, Promise
from tests.chaos.schedule import Kind, Victim, schedule

from engineshed.api.events.v1.event_service_pb2 import Event
from engineshed.api.scheduler.v1.events_pb2 import (
    EndpointCreated,
    ReplicaFailed,
    ReplicaLost,
    ReplicaPlaced,
    ReplicaStopped,
)

Recorded = EndpointCreated | ReplicaFailed | ReplicaLost | ReplicaPlaced | ReplicaStopped


def an_event(position: int, data: Recorded) -> Event:
    event = Event(
        event_id=f"evt_{position}",
        position=position,
        stream="endpoint/ep_1",
        version=position,
        org_id="org_1",
        actor="tok_1",
    )
    event.recorded_at.FromJsonString("2026-01-02T03:04:05.000678Z")
    event.data.Pack(data)
    return event


def as_published(position: int) -> Published:
    return Published(
        "engineshed.events.v1.scheduler.org_1.endpoint.ep_1.EndpointCreated",
        {
            "specversion": "1.0",
            "id": f"evt_{position}",
            "source": "/engineshed/scheduler",
            "type": "engineshed.api.scheduler.v1.EndpointCreated",
            "time": "2026-01-02T03:04:05.000678Z",
            "subject": "endpoint/ep_1",
            "datacontenttype": "application/protobuf",
            "org": "org_1",
            "sequence": str(position),
            "streamversion": str(position),
            "actor": "tok_1",
        },
        EndpointCreated(name=f"n{position}").SerializeToString(),
    )


COMMITTED = {"scheduler": [an_event(n, EndpointCreated(name=f"n{n}")) for n in (1, 2, 3)]}
ONE, TWO, THREE = (as_published(n) for n in (1, 2, 3))


def test_what_arrived_as_it_was_committed_is_fine() -> None:
    found = compare(COMMITTED, [ONE, TWO, ONE, TWO, THREE])

    assert found == Comparison(committed=3, published=5, repeated=2)


def test_what_is_missing_altered_foreign_or_in_another_order_is_found() -> None:
    altered = replace(TWO, data=b"")

    assert compare(COMMITTED, [ONE, THREE]).missing == ("evt_2",)
    assert compare(COMMITTED, [ONE, altered, THREE]).altered == ("evt_2",)
    assert compare(COMMITTED, [ONE, TWO, THREE, as_published(4)]).never_committed == ("evt_4",)
    assert compare(COMMITTED, [ONE, THREE, TWO]).out_of_order == ("evt_2",)


def placed(replica_id: str) -> ReplicaPlaced:
    return ReplicaPlaced(replica_id=replica_id, node_id="node_1", gpus=[0])


@pytest.mark.parametrize(
    ("between", "twice"),
    [
        (ReplicaStopped(replica_id="rep_1"), []),
        (ReplicaFailed(replica_id="rep_1"), []),
        (ReplicaFailed(replica_id="rep_0"), ["rep_2"]),
        (ReplicaLost(replica_id="rep_1"), ["rep_2"]),  # unheard, not dead
    ],
)
def test_a_gpu_is_free_once_its_replica_has_ended(between: Recorded, twice: list[str]) -> None:
    history = [placed("rep_1"), between, placed("rep_2")]

    events = [an_event(n, one) for n, one in enumerate(history, start=1)]
    assert gpus_held_twice(events) == twice


WAY = ("gateway-1", "ep_1")


def fails(promise: Promise, way: tuple[str, str] = WAY) -> bool:
    return promise.failure(way, promise.begin(way), Problem("503", refused=True))


def test_a_failure_is_excused_from_the_fault_to_the_first_success_after_it() -> None:
    promise = Promise()
    assert fails(promise)

    excuse = promise.excuse(gateway="gateway-1")
    promise.success(WAY, sent_at=1)  # sent before it was over
    assert not fails(promise)
    assert fails(promise, ("gateway-2", "ep_1"))
    excuse.over_at = 2
    assert not fails(promise)
    promise.success(WAY, sent_at=3)
    assert fails(promise)

    assert (promise.sent, promise.succeeded, promise.excused) == (7, 2, 2)
    assert len(promise.broken) == 3


def test_a_request_that_a_fault_met_on_its_way_is_excused() -> None:
    promise = Promise()
    before = promise.begin(WAY)
    promise.excuse(endpoint="ep_1").over_at = 0

    assert not promise.failure(WAY, before, Problem("cut"))


def test_a_stop_excuses_refusals_and_no_answer_that_breaks_off() -> None:
    promise = Promise()

    with promise.excusing(endpoint="ep_1", refusals_only=True):
        assert not fails(promise)
        assert promise.failure(WAY, promise.begin(WAY), Problem("cut"))


def test_a_gateway_that_is_cut_off_must_serve_while_a_replica_that_it_knows_is_ready() -> None:
    promise = Promise()
    promise.excuse(gateway=WAY[0], endpoint=WAY[1], refusals_only=True, known=["rep_1"])
    before, refused = promise.begin(WAY), Problem("503", refused=True)

    assert promise.failure(WAY, before, refused, ready=["rep_1", "rep_2"])
    assert not promise.failure(WAY, before, refused, ready=["rep_2"])
    assert promise.failure(WAY, before, Problem("cut"), ready=["rep_2"])


VICTIMS = [
    Victim("nats", (Kind.KILL, Kind.PAUSE, Kind.WIPE)),
    Victim("gateway", (Kind.KILL, Kind.PAUSE)),
    Victim("all", (Kind.BLACKOUT,), frozenset({"nats"})),
]


def test_a_seed_draws_the_same_faults_again() -> None:
    assert schedule(7, 100, VICTIMS) == schedule(7, 100, VICTIMS)
    assert schedule(7, 100, VICTIMS) != schedule(8, 100, VICTIMS)


@pytest.mark.parametrize("seed", range(20))
def test_a_victim_is_struck_once_at_a_time_and_every_fault_comes_and_ends(seed: int) -> None:
    faults = schedule(seed, 200, VICTIMS)

    kinds = {(victim.name, kind) for victim in VICTIMS for kind in victim.kinds}
    assert {(fault.victim, fault.kind) for fault in faults} == kinds
    assert max(fault.ends for fault in faults) <= 200
    ends = {"nats": 0.0, "gateway": 0.0}
    for fault in faults:
        struck = "gateway" if fault.victim == "gateway" else "nats"
        assert fault.at >= ends[struck]
        ends[struck] = fault.ends
