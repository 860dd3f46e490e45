import asyncio
from contextlib import aclosing
from datetime import UTC, datetime, timedelta

import pytest

from engineshed.bus import (
    Bus,
    LogLine,
    LogSource,
    Period,
    StoredLine,
    ensure_streams,
    follow_logs,
    publish_logs,
    read_logs,
)
from engineshed.bus import logs as bus_logs
from engineshed.bus.logs import LONGEST_LINE, LogPage

from .conftest import Broker, Connect, eventually, messages_in

NOON = datetime(2025, 1, 2, 12, tzinfo=UTC)
ENDPOINT = LogSource("org_01", "ep_01")
FRONT = LogSource("org_01", "ep_01", "rep_01", "front")
TRITON = LogSource("org_01", "ep_01", "rep_02", "triton")
OTHERS = LogSource("org_02", "ep_02", "rep_03", "front")


@pytest.fixture
async def agent(broker: Broker, connect: Connect) -> Bus:
    scheduler = await connect("scheduler")
    agent = await connect("agent")
    scheduler.on_connect(lambda: ensure_streams(scheduler))

    async def ready() -> bool:
        return agent.connected and await streams_exist(scheduler)

    await eventually(ready)
    return agent


async def streams_exist(bus: Bus) -> bool:
    try:
        return await messages_in(bus, "ENGINESHED_LOGS") == 0
    except Exception:  # noqa: BLE001 - not yet, whatever the reason
        return False


@pytest.fixture
async def gateway(agent: Bus, connect: Connect) -> Bus:
    bus = await connect("gateway")
    await eventually(lambda: bus.connected)
    return bus


def lines(first: int, last: int) -> list[LogLine]:
    return [
        LogLine(NOON + timedelta(seconds=number), f"line {number}", number * 100)
        for number in range(first, last + 1)
    ]


def texts(stored: list[StoredLine] | tuple[StoredLine, ...]) -> list[str]:
    return [line.line for line in stored]


async def test_lines_are_read_newest_first_page_by_page(agent: Bus, gateway: Bus) -> None:
    await publish_logs(agent, FRONT, lines(1, 5))

    first = await read_logs(gateway, ENDPOINT, limit=3)
    second = await read_logs(gateway, ENDPOINT, limit=3, before=first.before)

    assert texts([*first.lines]) == ["line 5", "line 4", "line 3"]
    assert texts([*second.lines]) == ["line 2", "line 1"]
    assert second.before is None


async def test_a_line_keeps_its_time_and_where_it_comes_from(agent: Bus, gateway: Bus) -> None:
    await publish_logs(agent, FRONT, [LogLine(NOON, "Grüße 🚂", 0)])

    (line,) = (await read_logs(gateway, ENDPOINT, limit=10)).lines

    assert (line.time, line.line) == (NOON, "Grüße 🚂")
    assert (line.replica_id, line.source) == ("rep_01", "front")


async def test_lines_published_again_are_stored_once(agent: Bus, gateway: Bus) -> None:
    await publish_logs(agent, FRONT, lines(1, 3))
    await publish_logs(agent, FRONT, lines(1, 3))

    page = await read_logs(gateway, ENDPOINT, limit=10)

    assert len(page.lines) == 3


async def test_one_replica_can_be_read_alone(agent: Bus, gateway: Bus) -> None:
    await publish_logs(agent, FRONT, lines(1, 2))
    await publish_logs(agent, TRITON, lines(3, 4))

    one = await read_logs(gateway, LogSource("org_01", "ep_01", "rep_02"), limit=10)
    both = await read_logs(gateway, ENDPOINT, limit=10)

    assert texts([*one.lines]) == ["line 4", "line 3"]
    assert len(both.lines) == 4


async def test_a_few_lines_among_thousands_of_others_are_found(agent: Bus, gateway: Bus) -> None:
    await publish_logs(agent, FRONT, lines(1, 3))
    await publish_logs(agent, OTHERS, lines(1, 3000))
    await publish_logs(agent, FRONT, lines(4, 5))
    await publish_logs(agent, OTHERS, lines(3001, 4000))

    newest = await read_logs(gateway, ENDPOINT, limit=3)
    before = await read_logs(gateway, ENDPOINT, limit=3, before=newest.before)

    assert texts([*newest.lines]) == ["line 5", "line 4", "line 3"]
    assert texts([*before.lines]) == ["line 2", "line 1"]


async def test_all_pages_together_are_all_lines(agent: Bus, gateway: Bus) -> None:
    for start in range(1, 400, 100):
        await publish_logs(agent, FRONT, lines(start, start + 99))
        await publish_logs(agent, OTHERS, lines(start, start + 20))

    seen: list[StoredLine] = []
    before: int | None = None
    while True:
        page = await read_logs(gateway, ENDPOINT, limit=37, before=before)
        seen.extend(page.lines)
        before = page.before
        if before is None:
            break

    assert len(seen) == len({line.sequence for line in seen}) == 400
    assert [line.sequence for line in seen] == sorted((x.sequence for x in seen), reverse=True)


def at(second: float) -> datetime:
    return NOON + timedelta(seconds=second)


async def all_pages(gateway: Bus, period: Period, limit: int) -> list[str]:
    found: list[str] = []
    before: int | None = None
    while True:
        page: LogPage = await read_logs(
            gateway, ENDPOINT, limit=limit, before=before, period=period
        )
        found += texts([*page.lines])
        before = page.before
        if before is None:
            return found


@pytest.mark.parametrize("limit", [2, 3, 100])
async def test_lines_of_a_period_are_read_by_when_they_were_logged(
    agent: Bus, gateway: Bus, limit: int
) -> None:
    await publish_logs(agent, FRONT, lines(1, 9))

    assert await all_pages(gateway, Period(at(4), at(7)), limit) == ["line 6", "line 5", "line 4"]
    assert await all_pages(gateway, Period(since=at(8)), limit) == ["line 9", "line 8"]
    assert await all_pages(gateway, Period(until=at(3)), limit) == ["line 2", "line 1"]
    assert await all_pages(gateway, Period(since=at(10)), limit) == []


async def test_a_line_that_came_late_belongs_to_when_it_was_logged(
    agent: Bus, gateway: Bus
) -> None:
    await publish_logs(agent, FRONT, lines(5, 9))
    await publish_logs(agent, TRITON, lines(1, 3))  # its host was cut off meanwhile

    found = await all_pages(gateway, Period(at(3), at(6)), 10)

    assert found == ["line 5", "line 3"]


async def test_a_period_long_ago_is_found_page_by_page(
    agent: Bus, gateway: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bus_logs, "_LOOKED_AT", 100)
    monkeypatch.setattr(bus_logs, "_PART", 50)
    await publish_logs(agent, FRONT, lines(1, 1000))

    page = await read_logs(gateway, ENDPOINT, limit=10, period=Period(until=at(3)))
    found = await all_pages(gateway, Period(until=at(3)), 10)

    assert page.lines == ()
    assert page.before is not None
    assert found == ["line 2", "line 1"]


async def test_what_was_stored_before_a_period_is_not_looked_through(
    agent: Bus, gateway: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bus_logs, "_FAST_CLOCK", -timedelta(days=1))  # all of it is too old
    monkeypatch.setattr(bus_logs, "_PART", 50)
    await publish_logs(agent, FRONT, lines(1, 300))

    page = await read_logs(gateway, ENDPOINT, limit=10, period=Period(since=datetime.now(UTC)))

    assert (page.lines, page.before) == ((), None)


async def test_lines_are_kept_for_two_weeks_or_as_long_as_it_is_set(
    agent: Bus, connect: Connect
) -> None:
    scheduler = await connect("scheduler")
    await eventually(lambda: scheduler.connected)

    async def kept() -> timedelta:
        info = await scheduler.call(lambda js: js.stream_info("ENGINESHED_LOGS"))
        return timedelta(seconds=info.config.max_age or 0)

    assert await kept() == timedelta(weeks=2)
    await ensure_streams(scheduler, timedelta(days=30))
    assert await kept() == timedelta(days=30)
    await ensure_streams(scheduler)  # another service, which was not told
    assert await kept() == timedelta(days=30)


async def test_nothing_logged_is_an_empty_page(gateway: Bus) -> None:
    page = await read_logs(gateway, ENDPOINT, limit=10)

    assert (tuple(page.lines), page.before) == ((), None)


async def test_an_overlong_line_is_cut_off(agent: Bus, gateway: Bus) -> None:
    await publish_logs(agent, FRONT, [LogLine(NOON, "x" * 5_000_000, 0)])

    (line,) = (await read_logs(gateway, ENDPOINT, limit=1)).lines

    assert line.line == "x" * LONGEST_LINE


async def test_following_goes_on_where_a_page_ended(agent: Bus, gateway: Bus) -> None:
    await publish_logs(agent, FRONT, lines(1, 2))
    page = await read_logs(gateway, ENDPOINT, limit=10)
    await publish_logs(agent, FRONT, lines(3, 3))

    async with aclosing(follow_logs(gateway, ENDPOINT, after=page.after)) as following:
        async with asyncio.timeout(10):
            assert (await anext(following)).line == "line 3"
            await publish_logs(agent, OTHERS, lines(1, 1))
            await publish_logs(agent, TRITON, lines(4, 4))
            assert (await anext(following)).line == "line 4"


@pytest.mark.parametrize("wiped", [False, True])
async def test_following_survives_the_broker(
    broker: Broker, agent: Bus, gateway: Bus, connect: Connect, wiped: bool
) -> None:
    await publish_logs(agent, FRONT, lines(1, 3))
    async with aclosing(follow_logs(gateway, ENDPOINT, after=0)) as following:
        async with asyncio.timeout(20):
            assert [(await anext(following)).line for _ in range(3)] == texts_of(1, 3)
            await broker.restart(wiped=wiped)
            await eventually(lambda: published(agent, lines(4, 5)))
            assert [(await anext(following)).line for _ in range(2)] == texts_of(4, 5)


def texts_of(first: int, last: int) -> list[str]:
    return [line.line for line in lines(first, last)]


async def published(agent: Bus, some: list[LogLine]) -> bool:
    try:
        await publish_logs(agent, FRONT, some)
    except Exception:  # noqa: BLE001 - the broker or its stream is not back yet
        return False
    return True
