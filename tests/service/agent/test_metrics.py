"""What the agent's GET /metrics says of its host."""

import json
from pathlib import Path

import psutil
from tests.metrics import is_refused, listening, sample, scrape

from engineshed.api.scheduler.v1.endpoint_service_pb2 import Replica

from .conftest import Host, a_replica
from .scripted_scheduler import ScriptedScheduler

STAND_IN_DRIVER = Path(__file__).with_name("stand_in_driver")


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


async def test_gpus_show_with_their_memory_and_how_busy_they_are(
    host: Host, scheduler: ScriptedScheduler
) -> None:
    """The driver is a stand-in: there is none where tests run."""
    settings = listening(host.state_dir)
    gpus = [{"uuid": "GPU-a", "used": 1 << 30, "gpu": 25}, {"uuid": "GPU-b", "answers": False}]
    checkpoint = host.checkpoint()
    replica = a_replica(checkpoint, gpu=1)
    scheduler.want(replica)
    host.start_agent(**settings, PYTHONPATH=str(STAND_IN_DRIVER), STAND_IN_GPUS=json.dumps(gpus))
    ready = await host.until(replica, Replica.STATE_READY)
    assert ready.engine_memory_bytes == 0, "its GPU does not answer"

    text = await scrape(settings["ENGINESHED_METRICS_LISTEN"])
    assert sample(text, "engineshed_agent_gpu_memory_bytes", gpu="0") == 150109880320
    assert sample(text, "engineshed_agent_gpu_memory_used_bytes", gpu="0", uuid="GPU-a") == 1 << 30
    assert sample(text, "engineshed_agent_gpu_utilization_ratio", gpu="0") == 0.25
    assert 'gpu_memory_used_bytes{gpu="1"' not in text, "a GPU that is lost says nothing"

    environment = psutil.Process(host.front(replica).pid).environ()
    assert environment["CUDA_VISIBLE_DEVICES"] == "GPU-b"


async def test_what_an_engine_takes_of_its_gpus_is_told_when_it_is_ready(
    host: Host, scheduler: ScriptedScheduler
) -> None:
    """What is in use of the fullest, but for keys and values: 10,000 tokens of 1,000 bytes."""
    gpus = [{"uuid": "GPU-a", "used": 30_000_000}, {"uuid": "GPU-b", "used": 40_000_000}]
    replica = a_replica(host.checkpoint())
    replica.gpus[:] = [0, 1]
    scheduler.want(replica)
    host.start_agent(PYTHONPATH=str(STAND_IN_DRIVER), STAND_IN_GPUS=json.dumps(gpus))

    ready = await host.until(replica, Replica.STATE_READY)

    assert ready.engine_memory_bytes == 30_000_000
    assert all(
        report.engine_memory_bytes == 30_000_000
        for report in scheduler.history(replica.replica_id)
        if report.state == Replica.STATE_READY
    )
