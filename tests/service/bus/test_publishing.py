from collections.abc import AsyncIterator

import nats
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats.aio.client import Client
from nats.aio.msg import Msg

from engineshed.api.scheduler.v1.events_pb2 import EndpointCreated
from engineshed.bus import Bus, BusUnavailableError, EventPublisher, ensure_streams, subject_of
from engineshed.bus.events import headers, received
from engineshed.eventstore import EventSink

from .conftest import Broker, Connect, an_event, eventually, messages_in


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
async def subscriber(broker: Broker) -> AsyncIterator[Client]:
    client = await nats.connect(broker.urls["subscriber"])
    yield client
    await client.close()


async def test_a_plain_subscriber_reads_cloudevents(
    publisher: EventPublisher, subscriber: Client
) -> None:
    sub = await subscriber.jetstream().subscribe("engineshed.events.v1.>", ordered_consumer=True)
    event = an_event(
        7, request_id="req 1", causation_id="evt_0", traceparent="00-ab-cd-01", actor="Zoë 100%"
    )

    await publisher.publish(event)
    message = await sub.next_msg(timeout=10)

    assert message.subject == "engineshed.events.v1.scheduler.org_01.endpoint.ep_01.EndpointCreated"
    assert message.headers == {
        "ce-specversion": "1.0",
        "ce-id": event.event_id,
        "ce-source": "/engineshed/scheduler",
        "ce-type": "engineshed.api.scheduler.v1.EndpointCreated",
        "ce-time": "2025-01-02T03:04:05.000678Z",
        "ce-subject": "endpoint/ep_01",
        "ce-datacontenttype": "application/protobuf",
        "ce-org": "org_01",
        "ce-sequence": "7",
        "ce-streamversion": "7",
        "ce-actor": "Zo%C3%AB%20100%25",
        "ce-requestid": "req%201",
        "ce-causationid": "evt_0",
        "ce-traceparent": "00-ab-cd-01",
        "Nats-Msg-Id": event.event_id,
        "Nats-Expected-Stream": "ENGINESHED_EVENTS",
    }
    assert EndpointCreated.FromString(message.data) == event.event


async def test_attributes_that_are_empty_are_absent(
    publisher: EventPublisher, subscriber: Client
) -> None:
    sub = await subscriber.jetstream().subscribe("engineshed.events.v1.>", ordered_consumer=True)

    await publisher.publish(an_event())
    message = await sub.next_msg(timeout=10)

    assert message.headers is not None
    assert not {"ce-requestid", "ce-causationid", "ce-traceparent"} & message.headers.keys()


async def test_a_subscriber_filters_by_organization_object_and_kind(
    publisher: EventPublisher, subscriber: Client
) -> None:
    await publisher.publish(an_event(1, org_id="org_01"))
    await publisher.publish(an_event(2, org_id="org_02"))

    sub = await subscriber.jetstream().subscribe(
        subject_of("*", org="org_02", aggregate="endpoint", kind="EndpointCreated"),
        ordered_consumer=True,
    )

    message = await sub.next_msg(timeout=10)
    assert (message.headers or {})["ce-sequence"] == "2"


@given(
    actor=st.text(st.characters(exclude_categories=["Cs"]), min_size=1),
    request_id=st.text(st.characters(exclude_categories=["Cs"])),
)
def test_an_event_comes_back_from_its_headers_as_it_was(actor: str, request_id: str) -> None:
    event = an_event(actor=actor, request_id=request_id)
    encoded = headers("scheduler", event)
    message = Msg(_client=None, data=event.event.SerializeToString(), headers=encoded)  # type: ignore[arg-type]  # no connection is needed to parse

    got = received(message)

    assert all(value.isascii() and value.isprintable() for value in encoded.values())
    assert (got.event, got.event_id, got.type) == (event.event, event.event_id, event.type)
    assert (got.stream, got.version, got.position) == (event.stream, event.version, event.position)
    assert (got.actor, got.request_id, got.org_id) == (actor, request_id, event.metadata.org_id)
    assert (got.service, got.recorded_at) == ("scheduler", event.recorded_at)


@pytest.mark.parametrize("token", ["", "a.b", "a b", "a>", "a\n"])
def test_what_is_no_token_cannot_get_into_a_subject(token: str) -> None:
    with pytest.raises(ValueError, match="cannot be part"):
        subject_of("scheduler", object_id=token)


async def test_a_repeated_event_is_stored_once(scheduler: Bus, publisher: EventPublisher) -> None:
    event = an_event()

    await publisher.publish(event)
    await publisher.publish(event)

    assert await messages_in(scheduler, "ENGINESHED_EVENTS") == 1


async def test_the_position_to_resume_at_is_that_of_the_services_last_event(
    publisher: EventPublisher, scheduler: Bus
) -> None:
    sink: EventSink = publisher
    assert await sink.resume_position() == 0

    await publisher.publish(an_event(41))
    await publisher.publish(an_event(42))

    assert await sink.resume_position() == 42
    assert await EventPublisher(scheduler, "catalog").resume_position() == 0


async def test_after_a_wipe_nothing_is_published_before_the_position_was_asked_for(
    broker: Broker, scheduler: Bus, publisher: EventPublisher
) -> None:
    await publisher.publish(an_event(1))
    before = scheduler.connections
    await broker.restart(wiped=True)
    await eventually(lambda: scheduler.connections > before)
    await ensure_streams(scheduler)

    with pytest.raises(BusUnavailableError, match="new one"):
        await publisher.publish(an_event(2))

    assert await publisher.resume_position() == 0
    await publisher.publish(an_event(1))
    assert await messages_in(scheduler, "ENGINESHED_EVENTS") == 1


async def test_a_restart_keeps_what_was_published(
    broker: Broker, scheduler: Bus, publisher: EventPublisher
) -> None:
    await publisher.publish(an_event(5))
    before = scheduler.connections
    await broker.restart()
    await eventually(lambda: scheduler.connections > before)

    assert await publisher.resume_position() == 5


async def test_events_that_retention_removed_are_told_from_events_never_there(
    scheduler: Bus, publisher: EventPublisher
) -> None:
    await publisher.publish(an_event(1))

    async def keep_one_of_another_service(js) -> None:
        config = (await js.stream_info("ENGINESHED_EVENTS")).config
        await js.update_stream(config.evolve(max_msgs=1))

    await scheduler.call(keep_one_of_another_service)
    await publisher.publish(an_event(2))
    assert await publisher.resume_position() == 2

    assert await EventPublisher(scheduler, "catalog").resume_position() is None


async def test_publishing_without_a_stream_fails_and_is_not_taken_for_done(
    broker: Broker, connect: Connect
) -> None:
    bus = await connect("scheduler")
    await eventually(lambda: bus.connected)
    publisher = EventPublisher(bus, "scheduler")
    assert await publisher.resume_position() == 0

    with pytest.raises(BusUnavailableError):
        await publisher.publish(an_event())


async def test_a_plain_subscriber_goes_on_after_the_broker_was_killed(
    broker: Broker, scheduler: Bus, publisher: EventPublisher, subscriber: Client
) -> None:
    sub = await subscriber.jetstream().subscribe(
        "engineshed.events.v1.>", ordered_consumer=True, idle_heartbeat=0.2
    )
    await publisher.publish(an_event(1))
    await sub.next_msg(timeout=10)
    before = scheduler.connections

    await broker.restart()
    await eventually(lambda: scheduler.connections > before)
    await publisher.resume_position()
    await publisher.publish(an_event(2))

    seen: dict[str, str] = {}
    while seen.get("ce-sequence") != "2":
        seen = (await sub.next_msg(timeout=20)).headers or {}
