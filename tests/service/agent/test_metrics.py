"""What the agent's GET /metrics says of its host."""

from tests.metrics import is_refused, listening, sample, scrape

from engineshed.api.scheduler.v1.endpoint_service_pb2 import Replica

from .conftest import Host, a_replica
from .scripted_scheduler import ScriptedScheduler


async def test_replicas_builds_and_engines_show(host: Host, scheduler: ScriptedScheduler) -> None:
    settings = listening(host.state_dir)
    address = settings["ENGINESHED_METRICS_LISTEN"]
    checkpoint = host.checkpoint(gate=True)
    replica = a_replica(checkpoint)
    scheduler.want(replica)
    host.start_agent(**settings)
    await host.until(replica, Replica.STATE_BUILDING)

    text = await scrape(address)
    assert sample(text, "engineshed_agent_builds_running") == 1
    assert sample(text, "engineshed_agent_replicas", state="building") == 1
    assert sample(text, "engineshed_agent_disk_free_bytes") > 0
    assert sample(text, "engineshed_agent_status_sent_age_seconds") < 60
    size = sample(text, "engineshed_agent_engine_cache_bytes")

    (checkpoint.folder / "gate").unlink()
    await host.until(replica, Replica.STATE_READY)

    text = await scrape(address)
    assert sample(text, "engineshed_agent_builds_running") == 0
    assert sample(text, "engineshed_agent_replicas", state="ready") == 1
    assert sample(text, "engineshed_agent_replicas") == 1
    assert sample(text, "engineshed_agent_engine_cache_bytes") > size
    assert await is_refused(address)
