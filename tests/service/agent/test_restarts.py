"""Agents die, schedulers go away, hosts start anew: replicas go on, none is started twice."""

import json
import signal
from pathlib import Path

import pytest
from google.protobuf import json_format

from engineshed import processes
from engineshed.api.agent.v1.agent_service_pb2 import DesiredReplica, ReplicaStatus
from engineshed.api.replica.v1.replica_service_pb2 import PHASE_DRAINING, ReplicaState
from engineshed.api.scheduler.v1.endpoint_service_pb2 import Replica

from .conftest import DEADLINE, ENDED, Host, a_replica, eventually, with_goal
from .scripted_scheduler import ScriptedScheduler


async def a_ready_replica(host: Host) -> DesiredReplica:
    replica = a_replica(host.checkpoint())
    host.scheduler.want(replica)
    host.start_agent()
    await host.until(replica, Replica.STATE_READY)
    return replica


def forget_the_process(record: Path) -> None:
    """Make it look as if the agent had been killed between starting the front and noting it."""
    content = json.loads(record.read_text())
    record.write_text(json.dumps(content | {"process": None, "triton": None}))


def began_in_another_boot(folder: Path) -> None:
    record = json.loads((folder / "record.json").read_text())
    for process in (record, record["process"], record["triton"]):
        process["boot_id"] = "00000000-0000-0000-0000-000000000000"
    (folder / "record.json").write_text(json.dumps(record))


async def end(host: Host, replica: DesiredReplica, number: signal.Signals) -> None:
    """End a front while no agent looks."""
    front = host.front(replica)
    processes.send_signal(front, number)
    assert await processes.wait_until_gone([front], DEADLINE)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_a_replica_outlives_its_agent_and_is_adopted(
    host: Host, scheduler: ScriptedScheduler, number: signal.Signals
) -> None:
    replica = await a_ready_replica(host)
    before = scheduler.report(replica.replica_id)
    front = host.front(replica)

    host.end_agent(number)
    assert processes.is_alive(front)
    told = len(scheduler.reports)
    host.start_agent()
    await eventually(lambda: len(scheduler.reports) > told)

    assert before is not None
    first = scheduler.reports[told].replicas[0]
    assert (first.state, first.url) == (Replica.STATE_READY, before.url)
    assert first.engine_digest == before.engine_digest
    assert first.state_age.ToNanoseconds() > before.state_age.ToNanoseconds()
    after = await host.until(replica, Replica.STATE_READY)
    assert host.front(replica) == front
    assert after.url == before.url
    assert {hello.node_id for hello in scheduler.hellos} == {scheduler.hellos[0].node_id}


async def test_an_adopted_replica_has_the_load_that_its_front_tells(
    host: Host, scheduler: ScriptedScheduler
) -> None:
    replica = await a_ready_replica(host)
    (host.folder(replica) / "in_flight_seconds").write_text("70")
    (host.folder(replica) / "idle").write_text("1000")
    host.end_agent()
    told = len(scheduler.reports)
    host.start_agent()

    def reports() -> list[ReplicaStatus]:
        return [report.replicas[0] for report in scheduler.reports[told:]]

    await eventually(lambda: any(report.HasField("idle_age") for report in reports()))
    known = next(report for report in reports() if report.HasField("idle_age"))
    assert known.in_flight_seconds == 70
    assert known.idle_age.ToNanoseconds() >= 1e12


async def test_an_adopted_replica_can_be_drained_and_ended(host: Host) -> None:
    replica = await a_ready_replica(host)
    front = host.front(replica)
    host.end_agent()
    host.start_agent()

    host.scheduler.want(with_goal(replica, DesiredReplica.GOAL_DRAIN))

    assert (await host.until(replica, *ENDED)).state == Replica.STATE_STOPPED
    assert not processes.is_alive(front)


async def test_an_adopted_replica_is_not_taken_for_drained_before_it_says_so(host: Host) -> None:
    replica = await a_ready_replica(host)
    front = host.front(replica)
    (host.folder(replica) / "in_flight").write_text("2")
    draining = with_goal(replica, DesiredReplica.GOAL_DRAIN)
    host.scheduler.want(draining)
    await eventually(lambda: host.front_state(replica).phase == PHASE_DRAINING)
    processes.send_signal(front, signal.SIGSTOP)  # it is slow to answer
    host.end_agent()

    host.start_agent()
    wanted = len(host.said("replica_wanted"))
    await eventually(lambda: len(host.said("replica_wanted")) > wanted)
    await host.until(replica, Replica.STATE_DRAINING)
    assert not host.said("replica_ending")

    processes.send_signal(front, signal.SIGCONT)
    await eventually(lambda: host.scheduler.reports[-1].replicas[0].in_flight == 2)
    (host.folder(replica) / "in_flight").write_text("0")
    assert (await host.until(replica, *ENDED)).state == Replica.STATE_STOPPED


async def test_a_front_that_was_started_but_not_noted_is_not_started_again(host: Host) -> None:
    replica = await a_ready_replica(host)
    front = host.front(replica)
    host.end_agent()
    forget_the_process(host.folder(replica) / "record.json")

    host.start_agent()
    await host.until(replica, Replica.STATE_READY)

    assert host.front(replica) == front


async def test_a_build_that_was_cut_off_is_done_again(host: Host) -> None:
    checkpoint = host.checkpoint(gate=True)
    replica = a_replica(checkpoint)
    host.scheduler.want(replica)
    host.start_agent()
    await host.until(replica, Replica.STATE_BUILDING)
    host.end_agent()

    (checkpoint.folder / "gate").unlink()
    host.start_agent()

    await host.until(replica, Replica.STATE_READY)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_an_end_that_no_agent_saw_is_told_by_the_next_and_is_no_crash(
    host: Host, scheduler: ScriptedScheduler, number: signal.Signals
) -> None:
    replica = await a_ready_replica(host)
    host.end_agent()
    await end(host, replica, number)
    told = len(scheduler.reports)

    host.start_agent()
    await eventually(lambda: len(scheduler.reports) > told)

    (first,) = scheduler.reports[told].replicas
    assert (first.state, first.code) == (Replica.STATE_FAILED, "NODE_RESTARTED")
    assert first.retryable


async def test_replicas_of_another_boot_were_ended_by_the_host(host: Host) -> None:
    replica = await a_ready_replica(host)
    host.end_agent()
    await processes.kill_family(host.front(replica))
    began_in_another_boot(host.folder(replica))

    host.start_agent()

    assert (await host.until(replica, *ENDED)).code == "NODE_RESTARTED"


async def test_a_failure_is_still_told_after_a_restart(host: Host) -> None:
    replica = a_replica(host.checkpoint(bad=True))
    host.scheduler.want(replica)
    host.start_agent()
    before = await host.until(replica, Replica.STATE_FAILED)
    host.end_agent()

    host.start_agent()
    after = await host.until(replica, Replica.STATE_FAILED)

    assert (after.code, after.reason) == (before.code, before.reason)
    assert after.state_age.ToNanoseconds() > before.state_age.ToNanoseconds()


async def test_nothing_is_ended_before_a_desired_state_has_come(
    host: Host, scheduler: ScriptedScheduler
) -> None:
    replica = await a_ready_replica(host)
    front = host.front(replica)
    host.end_agent()
    scheduler.desired = None

    host.start_agent()
    told = len(scheduler.reports)
    await eventually(lambda: len(scheduler.reports) > told + 1)  # more than a look later
    assert processes.is_alive(front)
    assert scheduler.reports[-1].generation == 0

    scheduler.want(term=2, generation=1)
    await eventually(lambda: not processes.is_alive(front))


async def test_a_host_without_a_scheduler_goes_on_and_is_heard_again(
    host: Host, scheduler: ScriptedScheduler
) -> None:
    replica = await a_ready_replica(host)
    front = host.front(replica)

    await scheduler.stop()
    await eventually(lambda: len(host.said("scheduler_lost")) > 2)
    assert processes.is_alive(front)
    host.end_agent()
    host.start_agent()
    await eventually(lambda: len(host.said("ready")) == 2)
    assert processes.is_alive(front)

    greeted = len(scheduler.hellos)
    await scheduler.start()
    await host.until(replica, Replica.STATE_READY)
    assert len(scheduler.hellos) > greeted
    assert host.front(replica) == front


async def test_an_older_desired_state_is_refused(host: Host, scheduler: ScriptedScheduler) -> None:
    replica = await a_ready_replica(host)
    scheduler.want(replica, term=3, generation=5)
    await eventually(lambda: scheduler.reports[-1].generation == 5)

    scheduler.want(term=3, generation=4)
    scheduler.want(term=2, generation=900)
    await eventually(lambda: len(host.said("desired_state_refused")) == 2)

    assert (await host.until(replica, Replica.STATE_READY)).code == ""
    assert (scheduler.reports[-1].term, scheduler.reports[-1].generation) == (3, 5)


async def test_a_leader_that_was_replaced_is_not_believed_after_a_restart_either(
    host: Host, scheduler: ScriptedScheduler
) -> None:
    replica = await a_ready_replica(host)
    scheduler.want(replica, term=3, generation=5)
    await eventually(lambda: scheduler.reports[-1].generation == 5)
    host.end_agent()

    scheduler.want(term=2, generation=900)
    host.start_agent()
    await eventually(lambda: host.said("desired_state_refused"))

    await host.until(replica, Replica.STATE_READY)


async def test_a_front_that_claims_an_unknown_field_is_understood_all_the_same(host: Host) -> None:
    replica = await a_ready_replica(host)
    host.end_agent()
    status = host.folder(replica) / "status.json"
    newer = json.loads(status.read_text()) | {"a_field_of_a_newer_release": 1}
    status.write_text(json.dumps(newer))
    assert json_format.ParseDict(newer, ReplicaState(), ignore_unknown_fields=True)

    host.start_agent()

    await host.until(replica, Replica.STATE_READY)
