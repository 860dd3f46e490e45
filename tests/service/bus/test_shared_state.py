import json
import shutil
import stat
from pathlib import Path

import pytest
from google.protobuf.message import Message
from nats.js import JetStreamContext

from engineshed.api.scheduler.v1.route_pb2 import Route
from engineshed.bus import (
    ROUTES,
    Bus,
    BusUnavailableError,
    KeyValueOwner,
    KeyValueWatcher,
    StaleEntryError,
    client,
    kv,
    reading,
)

from .conftest import Broker, Connect, eventually


def a_route(key: str, term: int = 1, generation: int = 1, **fields: object) -> Route:
    return Route(routing_key=key, term=term, generation=generation, **fields)  # type: ignore[arg-type]  # fields of the message


class Routes:
    """What the scheduler knows, and the bucket that it keeps."""

    def __init__(self, bus: Bus, *routes: Route) -> None:
        self.known = {route.routing_key: route for route in routes}
        self.owner = KeyValueOwner(bus, ROUTES, self.entries)

    async def entries(self) -> dict[str, Route]:
        return dict(self.known)


@pytest.fixture
async def scheduler(connect: Connect) -> Bus:
    return await connect("scheduler")


@pytest.fixture
async def gateway(connect: Connect) -> Bus:
    return await connect("gateway")


async def stored(bus: Bus, key: str) -> Route:
    async def last(js: JetStreamContext) -> Route:
        message = await js.get_last_msg(ROUTES.stream, f"{ROUTES.prefix}{key}")
        return Route.FromString(message.data or b"")

    return await bus.call(last)


async def test_a_watcher_sees_what_was_there_and_what_comes(
    broker: Broker, scheduler: Bus, gateway: Bus, background
) -> None:
    routes = Routes(scheduler, a_route("old"))
    changes: list[tuple[str, Message | None]] = []
    watcher = KeyValueWatcher(gateway, ROUTES, on_change=lambda *change: changes.append(change))
    background(routes.owner.run())
    background(watcher.run())
    await watcher.ready()
    await eventually(lambda: "old" in watcher.entries)

    await routes.owner.put("new", a_route("new", status="running"))
    await eventually(lambda: "new" in watcher.entries)

    assert watcher.entries["new"].status == "running"
    assert [key for key, _ in changes] == ["old", "new"]
    assert watcher.confirmed_at is not None


async def test_an_empty_bucket_is_ready_too(
    broker: Broker, scheduler: Bus, gateway: Bus, background
) -> None:
    watcher = KeyValueWatcher(gateway, ROUTES)
    background(watcher.run())
    background(Routes(scheduler).owner.run())

    await watcher.ready()

    assert not watcher.entries


async def test_an_owner_refuses_to_write_over_a_later_entry(
    broker: Broker, scheduler: Bus, connect: Connect, background
) -> None:
    leader = Routes(scheduler)
    background(leader.owner.run())
    old_bus = await connect("scheduler")
    await eventually(lambda: old_bus.connected)
    old_leader = Routes(old_bus).owner
    await eventually(lambda: put_succeeds(leader.owner, a_route("a", term=2, generation=1)))

    with pytest.raises(StaleEntryError):
        await old_leader.put("a", a_route("a", term=1, generation=9))
    with pytest.raises(StaleEntryError):
        await leader.owner.put("a", a_route("a", term=2, generation=0))

    assert (await stored(scheduler, "a")).term == 2


async def put_succeeds(owner: KeyValueOwner[Route], route: Route) -> bool:
    try:
        await owner.put(route.routing_key, route)
    except BusUnavailableError:  # the owner has not made the bucket yet
        return False
    return True


async def test_a_rewrite_never_lowers_what_a_later_leader_wrote(
    broker: Broker, scheduler: Bus, connect: Connect, background
) -> None:
    background(Routes(scheduler, a_route("a", term=2)).owner.run())
    await eventually(lambda: is_stored(scheduler, "a"))
    old_bus = await connect("scheduler")

    background(Routes(old_bus, a_route("a", term=1), a_route("b", term=1)).owner.run())
    await eventually(lambda: is_stored(scheduler, "b"))

    assert (await stored(scheduler, "a")).term == 2


async def is_stored(bus: Bus, key: str) -> bool:
    try:
        return bool((await stored(bus, key)).term)
    except Exception:  # noqa: BLE001 - not there yet, whatever the reason
        return False


async def test_a_watcher_ignores_an_earlier_entry_and_a_deletion(
    broker: Broker, scheduler: Bus, gateway: Bus, background
) -> None:
    background(Routes(scheduler, a_route("a", term=2, generation=5)).owner.run())
    watcher = KeyValueWatcher(gateway, ROUTES)
    background(watcher.run())
    await eventually(lambda: "a" in watcher.entries)

    async def interfere(js: JetStreamContext) -> None:
        bucket = await js.key_value(ROUTES.name)
        await bucket.put("a", a_route("a", term=2, generation=4).SerializeToString())
        await bucket.put("a", a_route("a", term=1, generation=9).SerializeToString())
        await bucket.put("a", b"\xff no message")
        await bucket.delete("a")
        await bucket.delete("never-there")
        await bucket.put("z", a_route("z").SerializeToString())

    await scheduler.call(interfere)
    await eventually(lambda: "z" in watcher.entries)

    assert watcher.entries.keys() == {"a", "z"}
    assert (watcher.entries["a"].term, watcher.entries["a"].generation) == (2, 5)


async def test_a_tombstone_removes_and_what_is_earlier_does_not_come_back(
    broker: Broker, scheduler: Bus, gateway: Bus, background
) -> None:
    routes = Routes(scheduler, a_route("a"))
    changes: list[tuple[str, Message | None]] = []
    watcher = KeyValueWatcher(gateway, ROUTES, on_change=lambda *change: changes.append(change))
    background(routes.owner.run())
    background(watcher.run())
    await eventually(lambda: "a" in watcher.entries)

    await routes.owner.put("a", a_route("a", generation=2, tombstone=True))
    await eventually(lambda: "a" not in watcher.entries)

    async def bring_back(js: JetStreamContext) -> None:
        bucket = await js.key_value(ROUTES.name)
        await bucket.put("a", a_route("a", generation=1).SerializeToString())
        await bucket.put("z", a_route("z").SerializeToString())

    await scheduler.call(bring_back)
    await eventually(lambda: "z" in watcher.entries)
    assert "a" not in watcher.entries
    assert changes[1] == ("a", None)


@pytest.mark.parametrize("wiped", [False, True])
async def test_after_the_broker_was_killed_the_watcher_keeps_its_entries_and_gets_new_ones(
    broker: Broker, scheduler: Bus, gateway: Bus, background, wiped: bool
) -> None:
    routes = Routes(scheduler, a_route("a"))
    watcher = KeyValueWatcher(gateway, ROUTES)
    background(routes.owner.run())
    background(watcher.run())
    await eventually(lambda: "a" in watcher.entries)

    broker.kill()
    await eventually(lambda: not gateway.connected and not scheduler.connected)
    assert "a" in watcher.entries
    routes.known["b"] = a_route("b")  # decided while the broker was away
    if wiped:
        broker.wipe()
    await broker.start()

    await eventually(lambda: "b" in watcher.entries)
    assert "a" in watcher.entries
    assert await is_stored(scheduler, "a")


async def test_a_wiped_bucket_whose_owner_is_away_removes_nothing(
    broker: Broker, scheduler: Bus, gateway: Bus, background
) -> None:
    owning = background(Routes(scheduler, a_route("a")).owner.run())
    watcher = KeyValueWatcher(gateway, ROUTES)
    background(watcher.run())
    await eventually(lambda: "a" in watcher.entries)
    owning.cancel()
    before = gateway.connections, scheduler.connections

    await broker.restart(wiped=True)
    await eventually(lambda: (gateway.connections, scheduler.connections) > before)
    background(Routes(scheduler).owner.run())  # knows nothing, and so makes an empty bucket
    confirmed_at = watcher.confirmed_at
    await eventually(lambda: watcher.confirmed_at != confirmed_at)

    assert "a" in watcher.entries


async def test_a_broker_that_returns_from_an_older_copy_of_its_store_gets_the_present_entries(
    broker: Broker, scheduler: Bus, gateway: Bus, connect: Connect, background, tmp_path: Path
) -> None:
    routes = Routes(scheduler, a_route("a"), a_route("gone"))
    background(routes.owner.run())
    watcher = KeyValueWatcher(gateway, ROUTES)
    background(watcher.run())
    await eventually(lambda: watcher.entries.keys() == {"a", "gone"})
    broker.kill()
    shutil.copytree(broker.state_dir / "nats" / "store", tmp_path / "copy")
    await broker.start()

    for changed in (a_route("a", generation=2), a_route("gone", generation=2, tombstone=True)):
        routes.known[changed.routing_key] = changed
        await eventually(lambda: put_succeeds(routes.owner, changed))  # noqa: B023 - awaited here
    broker.kill()
    broker.wipe()
    shutil.copytree(tmp_path / "copy", broker.state_dir / "nats" / "store")
    await broker.start()
    fresh = KeyValueWatcher(await connect("gateway"), ROUTES)
    background(fresh.run())

    for one in (watcher, fresh):
        await eventually(lambda: one.entries == {"a": routes.known["a"]})  # noqa: B023 - awaited here


async def test_a_broker_whose_disk_is_full_refuses_entries_and_takes_them_when_it_has_room(
    broker: Broker, scheduler: Bus, gateway: Bus, background
) -> None:
    routes = Routes(scheduler, a_route("a"))
    background(routes.owner.run())
    watcher = KeyValueWatcher(gateway, ROUTES)
    background(watcher.run())
    await eventually(lambda: "a" in watcher.entries)
    before = scheduler.connections
    await broker.restart_with(max_file_store=1)
    await eventually(lambda: scheduler.connections > before)

    routes.known["b"] = a_route("b")
    with pytest.raises(BusUnavailableError):
        await routes.owner.put("b", routes.known["b"])
    assert "a" in watcher.entries
    await broker.restart_with(max_file_store=10**9)

    await eventually(lambda: watcher.entries == routes.known)


async def test_an_entry_that_the_broker_refuses_is_one_that_it_does_not_hold_yet(
    broker: Broker, scheduler: Bus, connect: Connect, background
) -> None:
    routes = Routes(scheduler, a_route("a"))
    background(routes.owner.run())
    await eventually(lambda: is_stored(scheduler, "a"))
    admin = await connect("admin")
    await eventually(lambda: admin.connected)

    async def take_nothing(js: JetStreamContext) -> None:
        config = (await js.stream_info(ROUTES.stream)).config
        await js.update_stream(config.evolve(max_msg_size=1))

    await admin.call(take_nothing)
    with pytest.raises(BusUnavailableError, match="does not take b"):
        await routes.owner.put("b", a_route("b"))


async def test_the_owner_writes_again_what_got_lost(
    broker: Broker, scheduler: Bus, background, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kv, "REWRITE_INTERVAL", 0.05)
    background(Routes(scheduler, a_route("a")).owner.run())
    await eventually(lambda: is_stored(scheduler, "a"))

    async def damage(js: JetStreamContext) -> None:
        await (await js.key_value(ROUTES.name)).delete("a")

    await scheduler.call(damage)

    await eventually(lambda: is_stored(scheduler, "a"))


async def test_what_has_not_changed_is_not_written_again(
    broker: Broker, scheduler: Bus, background
) -> None:
    routes = Routes(scheduler, a_route("a"))
    background(routes.owner.run())
    await eventually(lambda: is_stored(scheduler, "a"))

    await routes.owner.put("a", a_route("a"))

    async def last_revision(js: JetStreamContext) -> int:
        return (await js.stream_info(ROUTES.stream)).state.last_seq

    assert await scheduler.call(last_revision) == 1


async def test_a_watcher_starts_from_its_copy_when_nats_is_down(
    broker: Broker, scheduler: Bus, gateway: Bus, connect: Connect, background, tmp_path: Path
) -> None:
    copy = tmp_path / "gateway" / "routes.json"
    background(Routes(scheduler, a_route("a", 2), a_route("gone", 2, tombstone=True)).owner.run())
    first = KeyValueWatcher(gateway, ROUTES, copy=copy)
    background(first.run())
    await eventually(lambda: "a" in first.entries)
    await eventually(lambda: copy.exists() and "gone" in json.loads(copy.read_text())["entries"])
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    assert stat.S_IMODE(copy.parent.stat().st_mode) == 0o700
    broker.kill()

    second = KeyValueWatcher(await connect("gateway"), ROUTES, copy=copy)
    background(second.run())
    await second.ready()

    assert second.entries == {"a": a_route("a", 2)}
    assert second.confirmed_at is None


async def test_a_watcher_that_ends_leaves_its_last_entries_in_the_copy(
    broker: Broker, scheduler: Bus, gateway: Bus, background, tmp_path: Path
) -> None:
    copy = tmp_path / "routes.json"
    background(Routes(scheduler, a_route("a")).owner.run())
    watcher = KeyValueWatcher(gateway, ROUTES, copy=copy)
    running = background(watcher.run())
    await eventually(lambda: "a" in watcher.entries)

    running.cancel()
    await eventually(running.done)

    assert "a" in json.loads(copy.read_text())["entries"]


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"entries": {"a": "!"}}', '{"entries": {"a": 1}}']
)
async def test_a_damaged_copy_is_passed_over(
    broker: Broker, scheduler: Bus, gateway: Bus, background, tmp_path: Path, text: str
) -> None:
    copy = tmp_path / "routes.json"
    copy.write_text(text)
    background(Routes(scheduler, a_route("a")).owner.run())
    watcher = KeyValueWatcher(gateway, ROUTES, copy=copy)
    background(watcher.run())

    await eventually(lambda: "a" in watcher.entries)


async def test_a_bucket_that_was_deleted_is_watched_again_when_it_is_back(
    broker: Broker,
    scheduler: Bus,
    gateway: Bus,
    connect: Connect,
    background,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kv, "REWRITE_INTERVAL", 0.1)
    monkeypatch.setattr(reading, "IDLE", 0.2)
    routes = Routes(scheduler, a_route("a"))
    watcher = KeyValueWatcher(gateway, ROUTES)
    background(routes.owner.run())
    background(watcher.run())
    await eventually(lambda: "a" in watcher.entries)
    admin = await connect("admin")
    await eventually(lambda: admin.connected)

    await admin.call(lambda js: js.delete_key_value(ROUTES.name))
    routes.known["b"] = a_route("b")

    await eventually(lambda: "b" in watcher.entries)
    assert "a" in watcher.entries


async def test_what_is_removed_while_it_is_read_is_not_waited_for(
    broker: Broker, scheduler: Bus, connect: Connect, background, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "IDLE", 0.2)
    background(Routes(scheduler, a_route("a"), a_route("b")).owner.run())
    await eventually(lambda: is_stored(scheduler, "b"))
    admin = await connect("admin")
    await eventually(lambda: admin.connected)

    async def read(js: JetStreamContext) -> list[int]:
        async with reading.reading(js, ROUTES.stream, ROUTES.reader) as reader:
            waiting = [reader.pending]
            await js.purge_stream(ROUTES.stream)
            assert await reader.batch() == []
            return [*waiting, reader.pending]

    assert await admin.call(read) == [2, 0]


async def test_a_quiet_bucket_is_confirmed_again_and_again(
    broker: Broker, scheduler: Bus, gateway: Bus, background, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "IDLE", 0.1)
    background(Routes(scheduler, a_route("a")).owner.run())
    watcher = KeyValueWatcher(gateway, ROUTES)
    background(watcher.run())
    await eventually(lambda: "a" in watcher.entries)

    times: set[float | None] = set()

    def confirmed_three_times() -> bool:
        times.add(watcher.confirmed_at)
        return len(times) == 3

    await eventually(confirmed_three_times)


async def test_a_broker_that_hangs_confirms_nothing(
    broker: Broker, scheduler: Bus, gateway: Bus, background, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "IDLE", 0.05)
    monkeypatch.setattr(client, "HEARTBEAT", 0.5)
    monkeypatch.setattr(client, "CALL_DEADLINE", 0.5)
    background(Routes(scheduler, a_route("a")).owner.run())
    watcher = KeyValueWatcher(gateway, ROUTES)
    background(watcher.run())
    await eventually(lambda: "a" in watcher.entries)
    broker.pause()
    times: set[float | None] = set()

    def lost() -> bool:
        times.add(watcher.confirmed_at)
        return not gateway.connected

    await eventually(lost)

    assert len(times) <= 2  # one answer may have been under way


async def test_a_key_that_would_be_several_subjects_is_refused(scheduler: Bus) -> None:
    with pytest.raises(ValueError, match="cannot be a key"):
        await Routes(scheduler).owner.put("a.*", a_route("a"))
