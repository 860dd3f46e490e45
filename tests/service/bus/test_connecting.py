import asyncio

import pytest
from nats.aio.client import Client
from structlog.testing import capture_logs

from engineshed.bus import Bus, BusUnavailableError, client, ensure_streams

from .conftest import Broker, Connect, eventually, messages_in


async def stream_names(bus: Bus) -> list[str | None]:
    async def names(js) -> list[str | None]:
        return [(await js.stream_info("ENGINESHED_EVENTS")).config.name]

    return await bus.call(names)


async def test_a_service_starts_while_nats_is_down_and_is_connected_when_it_comes(
    stopped_broker: Broker, connect: Connect
) -> None:
    bus = await connect("scheduler")
    assert not bus.connected

    await stopped_broker.start()
    await eventually(lambda: bus.connected)

    await ensure_streams(bus)
    assert await stream_names(bus) == ["ENGINESHED_EVENTS"]


async def test_a_call_without_a_connection_is_refused_at_once(connect: Connect) -> None:
    bus = await connect("scheduler")

    with pytest.raises(BusUnavailableError):
        await ensure_streams(bus)


@pytest.mark.parametrize("wiped", [False, True])
async def test_a_killed_broker_is_found_again_and_has_its_streams(
    broker: Broker, connect: Connect, wiped: bool
) -> None:
    bus = await connect("scheduler")
    done = 0

    async def ensure() -> None:
        nonlocal done
        await ensure_streams(bus)
        done += 1

    bus.on_connect(ensure)
    await eventually(lambda: done == 1)
    broker.kill()
    await eventually(lambda: not bus.connected)
    if wiped:
        broker.wipe()
    await broker.start()
    await eventually(lambda: done == 2)

    assert await stream_names(bus) == ["ENGINESHED_EVENTS"]


async def test_what_is_due_on_every_connection_is_tried_until_it_succeeds(
    broker: Broker, connect: Connect
) -> None:
    bus = await connect("scheduler")
    attempts = 0

    async def fails_twice() -> None:
        nonlocal attempts
        attempts += 1
        if attempts < 3:
            raise RuntimeError("not yet")

    bus.on_connect(fails_twice)

    await eventually(lambda: attempts == 3)


async def test_a_call_does_not_outlive_its_connection(broker: Broker, connect: Connect) -> None:
    bus = await connect("scheduler")
    await eventually(lambda: bus.connected)
    waiting = asyncio.Event()

    async def never(js) -> None:
        waiting.set()
        await asyncio.Event().wait()

    call = asyncio.create_task(bus.call(never, deadline=1000))
    await waiting.wait()
    broker.kill()

    with pytest.raises(BusUnavailableError, match="lost"):
        await call


async def test_a_broker_that_hangs_is_left_and_found_again_when_it_goes_on(
    broker: Broker, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "HEARTBEAT", 0.1)
    monkeypatch.setattr(client, "CALL_DEADLINE", 0.5)
    monkeypatch.setattr(client, "CLOSE_DEADLINE", 0.2)
    bus = await connect("scheduler")
    await eventually(lambda: bus.connected)

    broker.pause()
    await eventually(lambda: not bus.connected)
    broker.resume()
    await eventually(lambda: bus.connected)

    await ensure_streams(bus)


async def test_a_connection_that_cannot_be_closed_is_replaced_all_the_same(
    broker: Broker, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    bus = await connect("scheduler")
    await eventually(lambda: bus.connected)
    close = Client.close

    async def close_badly(client: Client) -> None:
        await close(client)
        raise RuntimeError("unable to perform operation on <TCPTransport closed=True>")

    monkeypatch.setattr(Client, "close", close_badly)
    await broker.restart()

    await eventually(lambda: bus.connections == 2)


async def test_closing_ends_in_time_though_the_broker_hangs(
    broker: Broker, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "CLOSE_DEADLINE", 0.2)
    bus = await connect("scheduler")
    await eventually(lambda: bus.connected)
    broker.pause()

    async with asyncio.timeout(10):
        await bus.close()

    assert not bus.connected


async def test_closing_sends_what_is_still_to_be_sent(broker: Broker, connect: Connect) -> None:
    agent = await connect("agent")
    scheduler = await connect("scheduler")
    await eventually(lambda: agent.connected and scheduler.connected)
    await ensure_streams(scheduler)

    async def publish_unacknowledged(js) -> None:
        await js.publish_async("engineshed.logs.v1.org_01.ep_01.rep_01.front", b"{}")

    await agent.call(publish_unacknowledged)
    await agent.close()

    assert await messages_in(scheduler, "ENGINESHED_LOGS") == 1


async def test_no_password_is_ever_logged(broker: Broker) -> None:
    url = broker.urls["scheduler"]
    password = url.split(":")[2].split("@")[0]
    with capture_logs() as logs:
        good = await Bus.connect(url, name="scheduler")
        bad = await Bus.connect(url.replace("scheduler:", "nobody:"), name="nobody")
        await eventually(lambda: good.connected and any(e["log_level"] == "warning" for e in logs))
        broker.kill()
        await eventually(lambda: not good.connected)
        await asyncio.gather(good.close(), bad.close())

    assert logs
    assert password not in str(logs)


async def test_the_operators_limits_of_a_stream_are_kept(broker: Broker, connect: Connect) -> None:
    bus = await connect("scheduler")
    await eventually(lambda: bus.connected)
    await ensure_streams(bus)

    async def change(js) -> None:
        config = (await js.stream_info("ENGINESHED_EVENTS")).config
        await js.update_stream(config.evolve(max_age=3600.0, subjects=["engineshed.events.v1.x.>"]))

    async def config(js):
        return (await js.stream_info("ENGINESHED_EVENTS")).config

    await bus.call(change)
    await ensure_streams(bus)

    mended = await bus.call(config)
    assert mended.max_age == 3600.0
    assert mended.subjects == ["engineshed.events.v1.>"]
