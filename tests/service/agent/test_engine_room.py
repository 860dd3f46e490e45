"""Engines of a host that has too little room for them, as an agent in a process of its own."""

from google.protobuf.json_format import Parse
from tests.metrics import listening, sample, scrape

from engineshed.api.agent.v1.agent_service_pb2 import DesiredReplica
from engineshed.api.replica.v1.replica_service_pb2 import ReplicaSpec
from engineshed.api.scheduler.v1.endpoint_service_pb2 import Replica

from .conftest import Host, a_replica, eventually, with_goal

STOP = DesiredReplica.GOAL_STOP


def engines(host: Host) -> set[str]:
    folder = host.state_dir / "agent" / "engines"
    return {path.parent.name for path in folder.glob("*/engine.json")}


def engine_of(host: Host, replica: DesiredReplica) -> str:
    spec = Parse((host.folder(replica) / "spec.json").read_bytes(), ReplicaSpec())
    return spec.engine_directory.rpartition("/")[2]


async def test_the_engine_of_a_replica_that_an_agent_adopts_stays_and_idle_ones_go(
    host: Host,
) -> None:
    serving, ended = a_replica(host.checkpoint()), a_replica(host.checkpoint(), gpu=1)
    host.scheduler.want(serving, ended)
    host.start_agent()
    await host.until(serving, Replica.STATE_READY)
    await host.until(ended, Replica.STATE_READY)
    kept, idle = engine_of(host, serving), engine_of(host, ended)
    host.scheduler.want(serving, with_goal(ended, STOP))
    await host.until(ended, Replica.STATE_STOPPED)
    assert engines(host) == {kept, idle}

    host.end_agent()
    settings = listening(host.state_dir) | {"ENGINESHED_ENGINE_CACHE_BYTES": "1B"}
    host.start_agent(**settings)
    await eventually(lambda: host.said("engine_evicted"))
    await host.until(serving, Replica.STATE_READY)

    assert engines(host) == {kept}
    (said,) = host.said("engine_evicted")
    assert said["key"] == idle
    text = await scrape(settings["ENGINESHED_METRICS_LISTEN"])
    assert sample(text, "engineshed_agent_engine_evictions_total") == 1
    assert sample(text, "engineshed_agent_engine_evicted_bytes_total") == said["bytes"]


async def test_a_replica_is_served_by_an_engine_larger_than_all_room(host: Host) -> None:
    replica = a_replica(host.checkpoint())
    host.scheduler.want(replica)
    host.start_agent(ENGINESHED_ENGINE_CACHE_BYTES="1B")
    await host.until(replica, Replica.STATE_READY)

    assert engines(host) == {engine_of(host, replica)}


async def test_a_full_disk_fails_the_replica_with_the_way_out_and_elsewhere_it_may_run(
    host: Host,
) -> None:
    replica = a_replica(host.checkpoint())
    host.scheduler.want(replica)
    host.start_agent(ENGINESHED_ENGINE_CACHE_MIN_FREE="1000PB")
    failed = await host.until(replica, Replica.STATE_FAILED)

    assert (failed.code, failed.retryable) == ("DISK_FULL", True)
    assert "ENGINESHED_ENGINE_CACHE_MIN_FREE" in failed.reason
