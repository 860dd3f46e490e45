"""A cluster of brokers that loses the node that leads: everything goes on."""

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from engineshed.api.scheduler.v1.route_pb2 import Route
from engineshed.bus import (
    ROUTES,
    Bus,
    BusUnavailableError,
    KeyValueOwner,
    KeyValueWatcher,
    consume,
    ensure_streams,
    subject_of,
)
from engineshed.eventstore import EventStore

from . import conftest
from .cluster import Cluster, leader_of
from .conftest import eventually
from .service import Consumer, Service, as_message, stream

EVENTS = "ENGINESHED_EVENTS"


@pytest.fixture(autouse=True)
def times(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for elections, and deliver again soon what was on its way through a node that dies."""
    monkeypatch.setattr(conftest, "DEADLINE", 60.0)
    monkeypatch.setattr(sys.modules["engineshed.bus.consume"], "ACK_WAIT", 1.0)


@pytest.fixture
def cluster(tmp_path: Path):
    cluster = Cluster(tmp_path)
    cluster.start()
    yield cluster
    cluster.kill()


@pytest.fixture
async def connect(cluster: Cluster) -> AsyncIterator[Callable[[str], Awaitable[Bus]]]:
    buses: list[Bus] = []

    async def connect_as(user: str) -> Bus:
        bus = await Bus.connect(cluster.url(user), name=user, replicas=3)
        buses.append(bus)
        return bus

    yield connect_as
    await asyncio.gather(*(bus.close() for bus in buses))


async def test_events_and_entries_arrive_although_the_node_that_leads_is_killed(
    cluster: Cluster, connect: Callable[[str], Awaitable[Bus]], tmp_path: Path, background
) -> None:
    scheduler, gateway, catalog = [await connect(n) for n in ("scheduler", "gateway", "catalog")]
    scheduler.on_connect(lambda: ensure_streams(scheduler))
    store = await EventStore.open(f"sqlite:///{tmp_path}/scheduler.db", service="scheduler")
    service = Service(store, scheduler)
    routes: dict[str, Route] = {}

    async def entries() -> dict[str, Route]:
        return dict(routes)

    owner = KeyValueOwner(scheduler, ROUTES, entries)
    watcher = KeyValueWatcher(gateway, ROUTES)
    consumer, over = Consumer(), asyncio.Event()
    for work in (
        service.relay.run(),
        owner.run(),
        watcher.run(),
        consume(catalog, "catalog", [subject_of("scheduler")], consumer),
    ):
        background(work)
    writing = background(service.write_until(over))

    await eventually(lambda: service.relay.published and put_all(owner, {"a": a_route("a")}))
    assert await replicas_of(scheduler, EVENTS) == 3
    assert await replicas_of(scheduler, ROUTES.stream) == 3
    cluster.kill(await leader_of(scheduler, EVENTS))
    routes |= {"a": a_route("a", generation=2), "b": a_route("b")}
    await eventually(lambda: put_all(owner, routes))
    await eventually(lambda: dict(watcher.entries) == routes)
    over.set()
    await writing

    await eventually(service.published)
    log = await service.log()
    assert await stream(cluster.url("subscriber")) == [as_message(one) for one in log]
    await eventually(lambda: consumer.has(log))
    await store.close()


def a_route(key: str, generation: int = 1) -> Route:
    return Route(routing_key=key, term=1, generation=generation)


async def replicas_of(bus: Bus, stream_name: str) -> int | None:
    info = await bus.call(lambda js: js.stream_info(stream_name))
    return info.config.num_replicas


async def put_all(owner: KeyValueOwner[Route], routes: dict[str, Route]) -> bool:
    try:
        for key, route in routes.items():
            await owner.put(key, route)
    except BusUnavailableError:
        return False
    return True
