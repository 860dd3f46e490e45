"""What replicas log reaches the broker whole and once, whoever is restarted when."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest
from tests.service.bus.conftest import Broker

from engineshed.agent import logs
from engineshed.api.agent.v1.agent_service_pb2 import DesiredReplica
from engineshed.api.scheduler.v1.endpoint_service_pb2 import Replica
from engineshed.bus import Bus, BusUnavailableError, LogSource, read_logs

from .conftest import DEADLINE, Host, a_replica, make_streams


@pytest.fixture
async def reader(broker: Broker) -> AsyncIterator[Bus]:
    await broker.start()
    await make_streams(broker)
    bus = await Bus.connect(broker.urls["gateway"], name="gateway")
    yield bus
    await bus.close()


async def lines(reader: Bus, replica: DesiredReplica, source: str, last: str) -> list[str]:
    """Return what the broker has of a log, oldest first, once it has the line `last`."""
    where = LogSource(replica.org_id, replica.endpoint_id, replica.replica_id, source)
    async with asyncio.timeout(DEADLINE):
        while True:
            found: list[str] = []
            with suppress(BusUnavailableError):  # it is being restarted
                page = await read_logs(reader, where, limit=10_000)
                found = [line.line for line in reversed(page.lines)]
            if last in found:
                return found
            await asyncio.sleep(0.05)


def log_lines(host: Host, replica: DesiredReplica, first: int, end: int) -> None:
    with (host.folder(replica) / "triton.log").open("a") as file:
        file.writelines(f"line {number}\n" for number in range(first, end))


async def test_all_logs_of_a_replica_are_shipped(host: Host, reader: Bus) -> None:
    replica = a_replica(host.checkpoint())
    host.scheduler.want(replica)
    host.start_agent()

    assert await lines(reader, replica, "build", "a build begins")
    assert await lines(reader, replica, "triton", "triton says hello")
    assert await lines(reader, replica, "front", "phase PHASE_READY") == [
        "phase PHASE_LOADING",
        "phase PHASE_READY",
    ]


async def test_nothing_is_lost_or_doubled_when_agent_and_broker_are_restarted(
    host: Host, broker: Broker, reader: Bus
) -> None:
    replica = a_replica(host.checkpoint())
    host.scheduler.want(replica)
    host.start_agent()
    await host.until(replica, Replica.STATE_READY)
    log_lines(host, replica, 0, 1000)
    await lines(reader, replica, "triton", "line 500")

    host.end_agent()  # in the midst of it, or soon after
    log_lines(host, replica, 1000, 2000)
    broker.kill()
    host.start_agent()
    await host.until(replica, Replica.STATE_READY)
    log_lines(host, replica, 2000, 3000)
    await broker.start()

    expected = ["triton says hello", *(f"line {number}" for number in range(3000))]
    assert await lines(reader, replica, "triton", "line 2999") == expected


async def test_a_batch_that_was_shipped_but_not_noted_is_not_doubled(
    host: Host, reader: Bus
) -> None:
    replica = a_replica(host.checkpoint())
    host.scheduler.want(replica)
    host.start_agent()
    await host.until(replica, Replica.STATE_READY)
    await lines(reader, replica, "triton", "triton says hello")
    host.end_agent()
    offsets = host.folder(replica) / "offsets.json"
    places = json.loads(offsets.read_text())
    places["triton"]["offset"] = 0
    offsets.write_text(json.dumps(places))

    log_lines(host, replica, 0, 1)
    host.start_agent()

    found = await lines(reader, replica, "triton", "line 0")
    assert found == ["triton says hello", "line 0"]


async def test_the_last_words_of_a_replica_are_shipped_before_it_is_forgotten(
    host: Host, broker: Broker, reader: Bus
) -> None:
    replica = a_replica(host.checkpoint(), behavior="crash-loading")
    host.scheduler.want(replica)
    host.start_agent()
    await host.until(replica, Replica.STATE_FAILED)
    broker.kill()
    with (host.folder(replica) / "front.log").open("a") as file:
        file.write("cut off in the middle of a li")

    host.scheduler.want()
    await host.until_unreported(replica)
    assert host.folder(replica).exists()
    await broker.start()

    found = await lines(reader, replica, "front", "cut off in the middle of a li")
    assert found == ["phase PHASE_LOADING", "cut off in the middle of a li"]
    await host.until_forgotten(replica)


async def test_a_replica_that_never_started_says_why_in_its_log(host: Host, reader: Bus) -> None:
    replica = a_replica(host.checkpoint())
    replica.checkpoint_digest = f"sha256:{'0' * 64}"
    host.scheduler.want(replica)
    host.start_agent()
    failed = await host.until(replica, Replica.STATE_FAILED)

    host.scheduler.want()
    await host.until_forgotten(replica)

    expected = f"failed: {failed.code}: {failed.reason}"
    assert await lines(reader, replica, "agent", expected) == [expected]


async def test_a_front_that_failed_has_the_reason_in_its_log(host: Host, reader: Bus) -> None:
    replica = a_replica(host.checkpoint(), behavior="fail-loading")
    host.scheduler.want(replica)
    host.start_agent()

    assert await lines(reader, replica, "agent", "failed: TRITON_DIED: it died")


async def test_a_log_that_grows_for_ever_does_not_fill_the_disk(
    host: Host, reader: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = 256 * 1024
    folder = host.state_dir / "rep"
    folder.mkdir()
    shipper_bus = await Bus.connect(host.nats_url, name="agent")
    monkeypatch.setattr(logs, "_KEPT_BYTES", kept)
    shipper = logs.LogShipper(shipper_bus)
    shipper.follow(folder, "org", "ep", "rep")
    shipping = asyncio.create_task(shipper.run())
    path = folder / "front.log"
    path.write_bytes((b"x" * 1023 + b"\n") * 2048 + b"the end\n")

    async with asyncio.timeout(DEADLINE):
        await shipper.finish("rep")
    shipping.cancel()
    await shipper_bus.close()

    assert path.read_bytes().endswith(b"\nthe end\n")
    if path.read_bytes()[:1] == b"x":
        pytest.skip("this file system cannot free parts of files")
    assert path.stat().st_blocks * 512 <= 2 * kept


async def test_a_log_that_cannot_be_read_holds_up_no_other_replica(host: Host, reader: Bus) -> None:
    bad, good = host.state_dir / "bad", host.state_dir / "good"
    (bad / "build.log").mkdir(parents=True)
    good.mkdir()
    (good / "front.log").write_text("hello\n")
    shipper_bus = await Bus.connect(host.nats_url, name="agent")
    shipper = logs.LogShipper(shipper_bus)
    for folder in (bad, good):
        shipper.follow(folder, "org", "ep", folder.name)
    shipping = asyncio.create_task(shipper.run())

    async with asyncio.timeout(DEADLINE):
        await shipper.finish("good")
    shipping.cancel()
    await shipper_bus.close()

    page = await read_logs(reader, LogSource("org", "ep", "good", "front"), limit=10)
    assert [line.line for line in page.lines] == ["hello"]
