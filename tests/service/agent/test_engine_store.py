"""Engines that come to an agent, in a process of its own, from the store that hosts share."""

import asyncio
import shutil

import pytest
from tests.metrics import listening, sample, scrape

from engineshed.api.scheduler.v1.endpoint_service_pb2 import Replica

from .conftest import Host, a_replica, eventually


async def test_an_engine_that_is_in_the_store_is_fetched_and_not_built(host: Host) -> None:
    settings = listening(host.state_dir) | {
        "ENGINESHED_ENGINE_STORE": (host.state_dir / "store").as_uri()
    }
    checkpoint = host.checkpoint()
    first, second = a_replica(checkpoint), a_replica(checkpoint, gpu=1)
    host.scheduler.want(first)
    host.start_agent(**settings)
    await host.until(first, Replica.STATE_READY)
    await eventually(lambda: host.said("engine_shared"))
    text = await scrape(settings["ENGINESHED_METRICS_LISTEN"])
    assert sample(text, "engineshed_agent_engine_fetches_total", outcome="missing") == 1
    assert sample(text, "engineshed_agent_engine_uploads_total", outcome="shared") == 1
    host.end_agent()
    await asyncio.to_thread(shutil.rmtree, host.state_dir / "agent" / "engines")

    host.start_agent(**settings)
    host.scheduler.want(first, second)
    await host.until(second, Replica.STATE_READY)

    assert checkpoint.builds() == 1
    states = {report.state for report in host.scheduler.history(second.replica_id)}
    assert Replica.STATE_BUILDING not in states
    assert len(host.said("engine_fetched")) == 1


async def test_an_agent_without_its_store_builds(host: Host) -> None:
    (host.state_dir / "store").write_text("no folder")
    checkpoint = host.checkpoint(gate=True)
    replica = a_replica(checkpoint)
    host.scheduler.want(replica)
    host.start_agent(ENGINESHED_ENGINE_STORE=(host.state_dir / "store").as_uri())
    await host.until(replica, Replica.STATE_BUILDING)
    assert host.said("engine_store_unreachable")

    (checkpoint.folder / "gate").unlink()
    await host.until(replica, Replica.STATE_READY)
    await eventually(lambda: host.said("engine_not_shared"))


@pytest.mark.parametrize(
    ("store", "reason"),
    [
        ("/mnt/engines", "is no URL"),
        ("file://mnt/engines", "is no URL"),
        ("nosuch://engines", "cannot be shared"),
        ("simplecache::file:///engines", "is no URL"),
    ],
)
def test_an_agent_that_cannot_speak_to_its_store_says_so_at_once(
    host: Host, store: str, reason: str
) -> None:
    host.start_agent(ENGINESHED_ENGINE_STORE=store)

    assert host.agent is not None
    assert host.agent.wait(60) != 0
    assert reason in host.log.read_text()
