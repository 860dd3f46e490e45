"""What a process measures of its connection, its consumers and its buckets."""

from tests.metrics import sample

from engineshed.api.scheduler.v1.route_pb2 import Route
from engineshed.bus import (
    ROUTES,
    EventPublisher,
    KeyValueOwner,
    KeyValueWatcher,
    ReceivedEvent,
    consume,
    ensure_streams,
    subject_of,
)

from .conftest import Broker, Connect, an_event, eventually


async def test_it_shows_whether_the_broker_is_there_and_how_often_it_came_back(
    broker: Broker, connect: Connect
) -> None:
    bus = await connect("gateway")
    await eventually(lambda: sample(bus.metrics, "engineshed_bus_connected") == 1)
    assert sample(bus.metrics, "engineshed_bus_connections_total") == 1

    broker.kill()
    await eventually(lambda: sample(bus.metrics, "engineshed_bus_connected") == 0)
    await broker.restart()
    await eventually(lambda: sample(bus.metrics, "engineshed_bus_connections_total") == 2)


async def test_events_of_a_consumer_are_counted_by_what_became_of_them(
    broker: Broker, connect: Connect, background
) -> None:
    scheduler, catalog = await connect("scheduler"), await connect("catalog")
    await eventually(lambda: scheduler.connected)
    await ensure_streams(scheduler)
    publisher = EventPublisher(scheduler, "scheduler")
    await publisher.resume_position()
    tried: set[int] = set()

    async def fail_first(event: ReceivedEvent) -> None:
        if event.position not in tried:
            tried.add(event.position)
            raise ValueError("the first time")

    subjects = [subject_of("scheduler", aggregate="endpoint")]
    background(consume(catalog, "catalog", subjects, fail_first))
    await publisher.publish(an_event())

    def events(outcome: str) -> float:
        name = "engineshed_bus_consumer_events_total"
        return sample(catalog.metrics, name, consumer="catalog", outcome=outcome)

    await eventually(lambda: events("handled") == 1)
    assert events("failed") == 1
    name = "engineshed_bus_consumer_redelivered_total"
    assert sample(catalog.metrics, name, consumer="catalog") == 1


async def test_buckets_are_counted_where_they_are_written_and_where_they_are_watched(
    broker: Broker, connect: Connect, background
) -> None:
    scheduler, gateway = await connect("scheduler"), await connect("gateway")

    async def entries() -> dict[str, Route]:
        return {key: Route(routing_key=key, term=1, generation=1) for key in ("a", "b")}

    watcher = KeyValueWatcher(gateway, ROUTES)
    background(KeyValueOwner(scheduler, ROUTES, entries).run())
    background(watcher.run())

    bucket = {"bucket": ROUTES.name}
    await eventually(lambda: len(watcher.entries) == 2 and watcher.confirmed_at)
    assert sample(scheduler.metrics, "engineshed_bus_bucket_writes_total", **bucket) == 2
    assert sample(gateway.metrics, "engineshed_bus_bucket_entries", **bucket) == 2
    assert (
        0 <= sample(gateway.metrics, "engineshed_bus_bucket_confirmed_age_seconds", **bucket) < 60
    )
