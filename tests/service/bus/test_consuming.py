import asyncio

import pytest
from nats.js import JetStreamContext
from nats.js.api import ConsumerInfo

from engineshed.bus import (
    Bus,
    EventPublisher,
    ReceivedEvent,
    consume,
    ensure_streams,
    reading,
    subject_of,
)

from .conftest import Broker, Connect, an_event, eventually

ENDPOINTS = [subject_of("scheduler", aggregate="endpoint")]


@pytest.fixture
async def scheduler(broker: Broker, connect: Connect) -> Bus:
    bus = await connect("scheduler")
    await eventually(lambda: bus.connected)
    await ensure_streams(bus)
    return bus


@pytest.fixture
async def publisher(scheduler: Bus) -> EventPublisher:
    publisher = EventPublisher(scheduler, "scheduler")
    await publisher.resume_position()
    return publisher


@pytest.fixture
async def catalog(connect: Connect) -> Bus:
    return await connect("catalog")


class Seen:
    """A handler that notes what it was given."""

    def __init__(self) -> None:
        self.events: list[ReceivedEvent] = []

    @property
    def positions(self) -> list[int]:
        return [event.position for event in self.events]

    async def __call__(self, event: ReceivedEvent) -> None:
        self.events.append(event)


async def consumer(bus: Bus) -> ConsumerInfo:
    async def info(js: JetStreamContext) -> ConsumerInfo:
        return await js.consumer_info("ENGINESHED_EVENTS", bus.durable_name("catalog"))  # type: ignore[no-any-return]  # it lacks its annotation

    return await bus.call(info)


async def all_is_acknowledged(bus: Bus) -> bool:
    info = await consumer(bus)
    return (info.num_ack_pending, info.num_pending) == (0, 0)


async def nobody_asks_for_events(bus: Bus) -> bool:
    return (await consumer(bus)).num_waiting == 0


async def test_events_come_decoded_and_in_order(
    publisher: EventPublisher, catalog: Bus, background
) -> None:
    seen = Seen()
    sent = [an_event() for _ in range(100)]
    background(consume(catalog, "catalog", ENDPOINTS, seen))

    for event in sent:
        await publisher.publish(event)
    await eventually(lambda: len(seen.events) == 100)

    assert [got.event for got in seen.events] == [event.event for event in sent]
    assert seen.positions == [event.position for event in sent]


async def test_only_what_the_filter_names_comes(
    publisher: EventPublisher, catalog: Bus, background
) -> None:
    seen = Seen()
    only = [subject_of("scheduler", org="org_01"), subject_of("scheduler", org="org_03")]
    background(consume(catalog, "catalog", only, seen))

    for org_id in ("org_01", "org_02", "org_03"):
        await publisher.publish(an_event(org_id=org_id))
    await eventually(lambda: len(seen.events) == 2)

    assert [event.org_id for event in seen.events] == ["org_01", "org_03"]


async def test_what_was_handled_does_not_come_to_the_next_process(
    publisher: EventPublisher, catalog: Bus, background
) -> None:
    first, second = Seen(), Seen()
    running = background(consume(catalog, "catalog", ENDPOINTS, first))
    one, two = an_event(), an_event()
    await publisher.publish(one)
    await eventually(lambda: first.positions == [one.position])
    await eventually(lambda: all_is_acknowledged(catalog))
    running.cancel()
    await asyncio.wait({running})
    await eventually(lambda: nobody_asks_for_events(catalog))

    background(consume(catalog, "catalog", ENDPOINTS, second))
    await publisher.publish(two)
    await eventually(lambda: second.events)

    assert second.positions == [two.position]


async def test_an_event_that_was_not_handled_comes_again(
    publisher: EventPublisher, catalog: Bus, background
) -> None:
    attempts = 0

    async def fails_once(event: ReceivedEvent) -> None:
        nonlocal attempts
        attempts += 1
        if attempts == 1:
            raise RuntimeError("the database is busy")

    background(consume(catalog, "catalog", ENDPOINTS, fails_once))
    await publisher.publish(an_event())

    await eventually(lambda: attempts == 2)


async def test_an_unreadable_message_does_not_hold_up_the_others(
    scheduler: Bus, publisher: EventPublisher, catalog: Bus, background
) -> None:
    seen = Seen()
    subject = subject_of("scheduler", org="o", aggregate="endpoint", object_id="e", kind="K")

    async def publish_garbage(js) -> None:
        await js.publish(subject, b"garbage")

    background(consume(catalog, "catalog", ENDPOINTS, seen))
    await scheduler.call(publish_garbage)
    event = an_event()
    await publisher.publish(event)
    await eventually(lambda: seen.events)

    assert seen.positions == [event.position]


@pytest.mark.parametrize("wiped", [False, True])
async def test_consuming_goes_on_after_the_broker_was_killed(
    broker: Broker,
    scheduler: Bus,
    publisher: EventPublisher,
    catalog: Bus,
    background,
    wiped: bool,
) -> None:
    seen = Seen()
    background(consume(catalog, "catalog", ENDPOINTS, seen))
    one, two = an_event(), an_event()
    await publisher.publish(one)
    await eventually(lambda: one.position in seen.positions)
    before = scheduler.connections

    await broker.restart(wiped=wiped)
    await eventually(lambda: scheduler.connections > before)
    await ensure_streams(scheduler)
    await publisher.resume_position()
    await publisher.publish(two)

    await eventually(lambda: two.position in seen.positions)


async def test_consuming_begins_when_the_stream_comes_to_be(
    broker: Broker, connect: Connect, catalog: Bus, background
) -> None:
    seen = Seen()
    background(consume(catalog, "catalog", ENDPOINTS, seen))
    scheduler = await connect("scheduler")
    await eventually(lambda: scheduler.connected and catalog.connected)

    await ensure_streams(scheduler)
    publisher = EventPublisher(scheduler, "scheduler")
    await publisher.resume_position()
    await publisher.publish(an_event())

    await eventually(lambda: seen.events)


async def test_a_consumer_that_was_deleted_is_made_anew(
    publisher: EventPublisher,
    catalog: Bus,
    connect: Connect,
    background,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reading, "IDLE", 0.2)
    seen = Seen()
    background(consume(catalog, "catalog", ENDPOINTS, seen))
    one, two = an_event(), an_event()
    await publisher.publish(one)
    await eventually(lambda: one.position in seen.positions)
    admin = await connect("admin")
    await eventually(lambda: admin.connected)

    await admin.call(
        lambda js: js.delete_consumer("ENGINESHED_EVENTS", catalog.durable_name("catalog"))
    )
    await publisher.publish(two)

    await eventually(lambda: two.position in seen.positions)
