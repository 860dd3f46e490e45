"""Replicas are prepared, started, watched and ended as the scheduler wants them."""

import signal
import stat
import subprocess
import sys

import psutil
import pytest
from tests.service.bus.conftest import Broker

from engineshed import processes
from engineshed.api.agent.v1.agent_service_pb2 import DesiredReplica
from engineshed.api.scheduler.v1.endpoint_service_pb2 import Replica

from .conftest import ENDED, Host, a_replica, eventually, make_streams, with_goal
from .scripted_scheduler import ScriptedScheduler

DRAIN, STOP = DesiredReplica.GOAL_DRAIN, DesiredReplica.GOAL_STOP


async def test_an_agent_greets_with_what_its_host_offers(
    host: Host, scheduler: ScriptedScheduler
) -> None:
    host.start_agent(ENGINESHED_SIMULATE="h100-sxm:8", ENGINESHED_REGION="fra")
    await eventually(lambda: scheduler.reports)

    (hello,) = scheduler.hellos
    inventory = hello.inventory
    assert hello.boot_id == processes.boot_id()
    assert (inventory.gpu_type, inventory.gpu_count, inventory.region) == ("h100-sxm", 8, "fra")
    assert inventory.simulated
    assert list(inventory.backends) == ["copying"]
    assert dict(inventory.versions) == {"copying": "1"}
    assert (inventory.gpu_product, list(inventory.gpu_uuids)) == ("", [])
    assert inventory.gpu_memory_bytes > 0
    assert (scheduler.reports[0].term, scheduler.reports[0].generation) == (0, 0)


async def test_slots_of_the_cpu_are_not_simulated_gpus(
    host: Host, scheduler: ScriptedScheduler
) -> None:
    host.start_agent()
    await eventually(lambda: scheduler.hellos)

    inventory = scheduler.hellos[0].inventory
    assert (inventory.gpu_type, inventory.gpu_count, inventory.simulated) == ("cpu", 4, False)


async def test_a_replica_goes_from_placed_to_ready(
    host: Host, scheduler: ScriptedScheduler
) -> None:
    replica = a_replica(host.checkpoint())
    scheduler.want(replica)
    host.start_agent()

    ready = await host.until(replica, Replica.STATE_READY)

    assert ready.endpoint_id == replica.endpoint_id
    assert ready.engine_backend == "copying"
    assert ready.engine_digest.startswith("sha256:")
    assert ready.url.startswith("http://")
    assert ready.state_age.ToMilliseconds() < 60_000
    states = [report.state for report in scheduler.history(replica.replica_id)]
    assert states == sorted(states), "it never goes back"
    assert (scheduler.reports[-1].term, scheduler.reports[-1].generation) == (1, 1)


async def test_the_secret_is_only_where_the_replica_reads_it(host: Host) -> None:
    replica = a_replica(host.checkpoint())
    host.scheduler.want(replica)
    host.start_agent()
    await host.until(replica, Replica.STATE_READY)

    folder = host.folder(replica)
    assert host.spec(replica).secret == replica.secret
    for directory in (folder, folder.parent, folder.parent.parent):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "spec.json").stat().st_mode) == 0o600
    written = [path for path in host.state_dir.rglob("*") if path.is_file()]
    holding = [path for path in written if replica.secret.encode() in path.read_bytes()]
    assert holding == [folder / "spec.json"]


async def test_a_front_sees_none_of_the_agents_credentials(host: Host) -> None:
    replica = a_replica(host.checkpoint())
    host.scheduler.want(replica)
    host.start_agent(AWS_SECRET_ACCESS_KEY="secret", FSSPEC_S3_KEY="key")
    await host.until(replica, Replica.STATE_READY)

    with open(f"/proc/{host.front(replica).pid}/environ", "rb") as file:  # noqa: ASYNC230, PTH123 - short
        names = {entry.partition(b"=")[0].decode() for entry in file.read().split(b"\0")}
    assert {name for name in names if name.startswith("ENGINESHED_")} == {"ENGINESHED_STATE_DIR"}
    assert not {name for name in names if name.startswith(("AWS_", "FSSPEC_"))}


async def test_requests_in_flight_are_reported(host: Host) -> None:
    replica = a_replica(host.checkpoint())
    host.scheduler.want(replica)
    host.start_agent()
    await host.until(replica, Replica.STATE_READY)

    (host.folder(replica) / "in_flight").write_text("3")

    await eventually(lambda: host.scheduler.reports[-1].replicas[0].in_flight == 3)


async def test_how_long_requests_took_and_since_when_there_is_none_is_reported(
    host: Host, scheduler: ScriptedScheduler
) -> None:
    replica = a_replica(host.checkpoint())
    scheduler.want(replica)
    host.start_agent()
    await host.until(replica, Replica.STATE_READY)
    folder = host.folder(replica)
    (folder / "idle").write_text("1000")
    (folder / "in_flight_seconds").write_text("70")

    await eventually(lambda: scheduler.reports[-1].replicas[0].in_flight_seconds == 70)
    await eventually(lambda: scheduler.reports[-1].replicas[0].idle_age.ToNanoseconds() > 1e12)

    (folder / "in_flight").write_text("3")
    await eventually(lambda: scheduler.reports[-1].replicas[0].in_flight == 3)
    busy = scheduler.reports[-1].replicas[0]
    assert busy.HasField("idle_age")
    assert busy.idle_age.ToNanoseconds() == 0

    processes.send_signal(host.front(replica), signal.SIGSTOP)
    await eventually(lambda: not scheduler.reports[-1].replicas[0].HasField("idle_age"))
    assert scheduler.reports[-1].replicas[0].in_flight_seconds == 70
    processes.send_signal(host.front(replica), signal.SIGCONT)


async def test_replicas_of_one_engine_share_its_build(host: Host) -> None:
    checkpoint = host.checkpoint(gate=True)
    replicas = [a_replica(checkpoint, gpu=gpu) for gpu in range(3)]
    host.scheduler.want(*replicas)
    host.start_agent()
    for replica in replicas:
        report = await host.until(replica, Replica.STATE_BUILDING)
        assert (report.progress, report.progress_message) == (0.5, "copying")

    (checkpoint.folder / "gate").unlink()
    for replica in replicas:
        await host.until(replica, Replica.STATE_READY)

    assert checkpoint.builds() == 1
    for replica in replicas:
        assert (host.folder(replica) / "build.log").read_text() == "a build begins\n"


async def test_a_build_goes_on_while_one_replica_wants_it_and_ends_with_the_last(
    host: Host,
) -> None:
    checkpoint = host.checkpoint(gate=True)
    first, second = a_replica(checkpoint), a_replica(checkpoint, gpu=1)
    host.scheduler.want(first, second)
    host.start_agent()
    await host.until(first, Replica.STATE_BUILDING)
    await host.until(second, Replica.STATE_BUILDING)

    host.scheduler.want(with_goal(first, STOP), second)
    await host.until(first, Replica.STATE_STOPPED)
    assert not host.said("build_cancelled")

    host.scheduler.want(with_goal(first, STOP), with_goal(second, STOP))
    await host.until(second, Replica.STATE_STOPPED)
    assert len(host.said("build_cancelled")) == 1
    assert checkpoint.builds() == 0
    assert not any((host.state_dir / "agent" / "engines").iterdir())


async def test_an_engine_that_was_built_before_is_loaded_at_once(host: Host) -> None:
    checkpoint = host.checkpoint()
    first, second = a_replica(checkpoint), a_replica(checkpoint, gpu=1)
    host.scheduler.want(first)
    host.start_agent()
    await host.until(first, Replica.STATE_READY)

    host.scheduler.want(first, second)
    await host.until(second, Replica.STATE_READY)

    assert checkpoint.builds() == 1
    states = {report.state for report in host.scheduler.history(second.replica_id)}
    assert Replica.STATE_BUILDING not in states


async def test_a_build_that_fails_fails_the_replica_with_its_reason(host: Host) -> None:
    replica = a_replica(host.checkpoint(bad=True))
    host.scheduler.want(replica)
    host.start_agent()

    failed = await host.until(replica, Replica.STATE_FAILED)

    assert (failed.code, failed.reason, failed.retryable) == (
        "BAD_WEIGHTS",
        "the weights are bad",
        False,
    )
    said = (host.folder(replica) / "agent.log").read_text()
    assert "failed: BAD_WEIGHTS: the weights are bad\n  reading the weights\n  they are" in said


@pytest.mark.parametrize(
    ("location", "digest", "code", "retryable"),
    [
        ("checkpoints/none", None, "CHECKPOINT_UNREACHABLE", True),
        ("../agent", None, "CHECKPOINT_MISMATCH", False),
        (None, "sha256:" + "0" * 64, "CHECKPOINT_MISMATCH", False),
    ],
)
async def test_a_checkpoint_that_is_not_the_right_one_is_refused(
    host: Host, location: str | None, digest: str | None, code: str, retryable: bool
) -> None:
    replica = a_replica(host.checkpoint())
    replica.checkpoint_location = location or replica.checkpoint_location
    replica.checkpoint_digest = digest or replica.checkpoint_digest
    host.scheduler.want(replica)
    host.start_agent()

    failed = await host.until(replica, Replica.STATE_FAILED)

    assert (failed.code, failed.retryable) == (code, retryable)


async def test_stopping_ends_the_front_and_all_that_came_of_it(host: Host) -> None:
    replica = a_replica(host.checkpoint())
    host.scheduler.want(replica)
    host.start_agent()
    await host.until(replica, Replica.STATE_READY)
    front = host.front(replica)
    triton = processes.identify(host.front_state(replica).triton_pid)

    host.scheduler.want(with_goal(replica, STOP))
    stopped = await host.until(replica, *ENDED)

    assert (stopped.state, stopped.code) == (Replica.STATE_STOPPED, "")
    assert not processes.is_alive(front)
    assert not processes.is_alive(triton)
    assert host.agent is not None
    assert not psutil.Process(host.agent.pid).children(), "it has reaped the front"


async def test_draining_waits_for_the_last_request(host: Host) -> None:
    replica = a_replica(host.checkpoint())
    host.scheduler.want(replica)
    host.start_agent()
    await host.until(replica, Replica.STATE_READY)
    requests = host.folder(replica) / "in_flight"
    requests.write_text("2")

    host.scheduler.want(with_goal(replica, DRAIN))
    draining = await host.until(replica, Replica.STATE_DRAINING)
    assert processes.is_alive(host.front(replica))
    assert draining.code == ""

    requests.write_text("0")
    assert (await host.until(replica, *ENDED)).state == Replica.STATE_STOPPED


async def test_draining_is_cut_off_after_its_time(host: Host) -> None:
    replica = a_replica(host.checkpoint())
    host.scheduler.want(replica)
    host.start_agent()
    await host.until(replica, Replica.STATE_READY)
    (host.folder(replica) / "in_flight").write_text("2")

    host.scheduler.want(with_goal(replica, DRAIN, drain_seconds=1))

    assert (await host.until(replica, *ENDED)).state == Replica.STATE_STOPPED


async def test_a_front_that_fails_says_why_itself(host: Host) -> None:
    replica = a_replica(host.checkpoint(), behavior="fail-loading")
    host.scheduler.want(replica)
    host.start_agent()

    failed = await host.until(replica, Replica.STATE_FAILED)

    assert (failed.code, failed.reason, failed.retryable) == ("TRITON_DIED", "it died", True)


async def test_an_engine_that_cannot_be_loaded_is_built_anew_for_the_next(host: Host) -> None:
    checkpoint = host.checkpoint()
    first = a_replica(checkpoint, behavior="wrong-gpu")
    host.scheduler.want(first)
    host.start_agent()
    failed = await host.until(first, Replica.STATE_FAILED)
    assert failed.code == "ENGINE_WRONG_GPU"

    second = a_replica(checkpoint)
    host.scheduler.want(second)
    await host.until(second, Replica.STATE_READY)

    assert checkpoint.builds() == 2


async def test_a_front_that_is_killed_has_crashed_and_leaves_nothing_behind(host: Host) -> None:
    replica = a_replica(host.checkpoint())
    host.scheduler.want(replica)
    host.start_agent()
    await host.until(replica, Replica.STATE_READY)
    triton = processes.identify(host.front_state(replica).triton_pid)

    processes.send_signal(host.front(replica), signal.SIGKILL)
    failed = await host.until(replica, *ENDED)

    assert (failed.code, failed.retryable) == ("REPLICA_CRASHED", True)
    assert "signal 9" in failed.reason
    assert not processes.is_alive(triton), "a Triton in a session of its own is found all the same"


async def test_a_front_that_somebody_else_stopped_was_on_a_node_that_restarts(host: Host) -> None:
    replica = a_replica(host.checkpoint())
    host.scheduler.want(replica)
    host.start_agent()
    await host.until(replica, Replica.STATE_READY)

    processes.send_signal(host.front(replica), signal.SIGTERM)
    failed = await host.until(replica, *ENDED)

    assert (failed.code, failed.retryable) == ("NODE_RESTARTED", True)


@pytest.mark.parametrize(("end", "code"), [("drain-end", ""), ("fail-end", "TRITON_DIED")])
async def test_one_that_takes_no_more_requests_says_whether_it_drains_or_fails(
    host: Host, end: str, code: str
) -> None:
    replica = a_replica(host.checkpoint(), behavior=f"{end} slow-end")
    host.scheduler.want(replica)
    host.start_agent()
    await host.until(replica, Replica.STATE_READY)

    processes.send_signal(host.front(replica), signal.SIGTERM)

    assert (await host.until(replica, Replica.STATE_DRAINING)).code == code
    (host.folder(replica) / "may-end").touch()
    await host.until(replica, *ENDED)


async def test_a_replica_that_is_named_no_more_is_ended_and_forgotten(
    host: Host, broker: Broker
) -> None:
    await broker.start()
    replica, ended = a_replica(host.checkpoint()), a_replica(host.checkpoint(bad=True))
    host.scheduler.want(replica, ended)
    host.start_agent()
    await host.until(replica, Replica.STATE_READY)
    await host.until(ended, Replica.STATE_FAILED)
    front = host.front(replica)

    await make_streams(broker)
    host.scheduler.want()
    await host.until_forgotten(replica)
    await host.until_forgotten(ended)

    assert not processes.is_alive(front)


async def test_a_replica_waits_until_the_one_before_has_left_its_gpu(host: Host) -> None:
    checkpoint = host.checkpoint()
    before, after = a_replica(checkpoint, behavior="slow-end"), a_replica(checkpoint)
    host.scheduler.want(before)
    host.start_agent()
    await host.until(before, Replica.STATE_READY)

    host.scheduler.want(after)
    await eventually(
        lambda: (
            (report := host.scheduler.report(after.replica_id))
            and report.progress_message == "waiting until its GPUs are free"
        )
    )
    assert not (host.folder(after) / "front.log").exists()

    (host.folder(before) / "may-end").touch()
    await host.until(after, Replica.STATE_READY)


async def test_two_agents_do_not_share_a_folder(host: Host) -> None:
    host.start_agent()
    await eventually(lambda: host.scheduler.reports)
    first = host.agent

    host.start_agent()
    assert host.agent is not None
    await eventually(lambda: host.agent is not None and host.agent.poll() is not None)
    assert host.agent.returncode != 0
    host.agent = first


def test_the_agent_loads_no_model_library() -> None:
    models = "{'torch', 'transformers', 'numpy', 'tokenizers'}"
    program = f"import sys, engineshed.agent.process; print(*sys.modules.keys() & {models})"

    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)

    assert loaded.stdout.split() == []
