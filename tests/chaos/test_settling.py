"""Endpoints that are not as they should be, untrue reasons and wrong bills are found."""

from datetime import UTC, datetime, timedelta

import pytest
from tests.chaos.bills import Span, beyond, billed, wrong_bills
from tests.chaos.clients import Json
from tests.chaos.truth import fleet, unsettled

from engineshed.api.events.v1.event_service_pb2 import Event
from engineshed.api.scheduler.v1 import events_pb2 as pb

START = datetime(2026, 1, 2, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def history(*moments: tuple[type, float]) -> list[Event]:
    """Return the events of one replica."""
    events = []
    for kind, seconds in moments:
        message = kind(replica_id="rep_1")
        message.effective_at.FromDatetime(at(seconds))
        event = Event()
        event.data.Pack(message)
        events.append(event)
    return events


LIFE = (
    (pb.ReplicaLoading, 1),
    (pb.ReplicaReady, 2),
    (pb.ReplicaLost, 5),
    (pb.ReplicaFound, 7),
    (pb.ReplicaDraining, 9),
    (pb.ReplicaStopped, 12),
)


def test_a_replica_is_billed_while_it_serves_and_is_heard() -> None:
    events = history(*LIFE)

    assert billed(events) == [Span("rep_1", at(2), at(5)), Span("rep_1", at(7), at(9))]
    assert wrong_bills(events) == []


@pytest.mark.parametrize(
    "life",
    [
        ((pb.ReplicaReady, 2), (pb.ReplicaDraining, 1)),
        ((pb.ReplicaReady, 2), (pb.ReplicaStopped, 3)),
        ((pb.ReplicaReady, 2), (pb.ReplicaLoading, 3), (pb.ReplicaDraining, 4)),
    ],
)
def test_times_that_go_back_and_bills_beside_the_life_of_a_replica_are_found(life) -> None:
    assert wrong_bills(history(*life))


@pytest.mark.parametrize(
    ("begin", "end", "fine"),
    [
        (10, 20, True),
        (5.5, 24.5, True),  # as exact as it is told
        (4, 20, False),
        (10, 26, False),
        (10, None, False),
    ],
)
def test_a_bill_is_for_no_more_than_its_host_saw(begin, end, fine) -> None:
    bill = Span("rep_1", at(begin), None if end is None else at(end))

    assert (beyond([bill], [Span("rep_1", at(10), at(20))], []) == []) is fine


def test_what_a_host_said_may_be_late_by_as_long_as_it_was_held_up() -> None:
    bill, seen = Span("rep_1", at(10), at(40)), Span("rep_1", at(10), at(20))

    assert beyond([bill], [seen], [(at(15), at(36))]) == []
    assert beyond([bill], [seen], [(at(15), at(25))])


BOUNDS = {fewest: {"min_replicas": fewest, "max_replicas": 2} for fewest in (0, 1, 2)}


def endpoint(status: str, *replicas: str, **more: object) -> Json:
    return {
        "endpoint_id": "ep_1",
        "region": "local",
        "gpu_type": "cpu",
        "gpu_count": 2,
        "status": status,
        "status_reason": "",
        "enabled": True,
        "scaling": {"min_replicas": 1, "max_replicas": 1},
        "wanted_replicas": 1,
        "rollout": None,
        "replicas": [
            {"replica_id": f"rep_{n}", "status": one, "leaving": None}
            for n, one in enumerate(replicas)
        ],
        **more,
    }


@pytest.mark.parametrize(
    ("there", "deleted"),
    [
        (endpoint("running", "ready", "failed"), False),
        (endpoint("queued"), False),  # whether it has to wait is another question
        (endpoint("running", "ready", scaling=BOUNDS[2], wanted_replicas=2), False),
        (endpoint("idle", scaling=BOUNDS[0], wanted_replicas=0), False),
        (endpoint("running", "ready", scaling=BOUNDS[0]), False),
        (endpoint("stopped", "stopped", enabled=False), False),
        (endpoint("terminated", "stopped", enabled=False), True),
    ],
)
def test_an_endpoint_is_settled_when_it_is_as_it_was_told(there, deleted) -> None:
    assert unsettled(there, deleted=deleted) == ""


@pytest.mark.parametrize(
    ("there", "deleted"),
    [
        (endpoint("failed"), False),
        (endpoint("provisioning", "loading"), False),
        (endpoint("running", "ready", "draining"), False),
        (endpoint("running", "ready", "ready"), False),
        (endpoint("idle", "draining", scaling=BOUNDS[0], wanted_replicas=0), False),
        (endpoint("idle", wanted_replicas=0), False),
        (endpoint("running", "ready", "lost"), False),
        (endpoint("running", "ready", rollout={"status": "failed", "reason": ""}), False),
        (endpoint("running", "ready", enabled=False), False),
        (endpoint("terminated", "draining", enabled=False), True),
        (endpoint("running", "ready"), True),
    ],
)
def test_an_endpoint_is_not_settled_while_anything_of_it_is_on_its_way(there, deleted) -> None:
    assert unsettled(there, deleted=deleted)


def host(node_id: str, free: int, status: str = "joined") -> Json:
    gpus = [{"replica_id": None}] * free + [{"replica_id": "rep_9"}] * (4 - free)
    return {
        "node_id": node_id,
        "region": "local",
        "gpu_type": "cpu",
        "status": status,
        "gpus": gpus,
    }


ROOM = "waiting for 2 free GPUs on one cpu node in local"
CORDONED = "waiting for a cpu node in local: all that are heard are cordoned"
SILENT = "waiting for a cpu node in local: none is heard"
SOON = "waiting to be placed"


@pytest.mark.parametrize(
    ("reason", "hosts", "position", "true"),
    [
        (ROOM, [host("a", 1), host("b", 4, "draining")], 1, True),
        (ROOM, [host("a", 2)], 1, False),
        (ROOM, [host("kept", 2)], 1, False),
        (ROOM, [host("kept", 2)], 2, True),
        (SOON, [host("kept", 2)], 2, True),
        (SOON, [host("a", 2)], 2, False),
        (SOON, [host("a", 1)], 1, False),
        (CORDONED, [host("a", 4, "cordoned")], 1, True),
        (CORDONED, [host("a", 1)], 1, False),
        (CORDONED, [host("a", 1, "lost")], 1, False),
        (SILENT, [host("a", 4, "lost")], 1, True),
        (SILENT, [host("a", 4, "cordoned")], 1, False),
        ("waiting for 3 free GPUs on one cpu node in local", [host("a", 1)], 1, False),
    ],
)
def test_a_reason_to_wait_is_held_against_the_hosts(reason, hosts, position, true) -> None:
    head = {**endpoint("queued"), "endpoint_id": "ep_2"}
    waits = [(head, {"wait": {"nominated_node_id": "kept"}})]
    wait = {"reason": reason, "queue_position": position}

    found = fleet(hosts, waits).why_not_true(endpoint("queued"), wait)

    assert (found == "") is true
