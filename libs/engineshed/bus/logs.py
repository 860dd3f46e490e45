"""Log lines of replicas: published by agents, read newest first, followed live."""

import asyncio
import json
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final
from zlib import crc32

from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from nats.js.errors import NotFoundError

from engineshed.bus.client import Bus
from engineshed.bus.reading import FORGOTTEN, reading
from engineshed.bus.streams import LOGS

PREFIX: Final = "engineshed.logs.v1"
LONGEST_LINE: Final = 16_384  # characters; the rest of a longer one is cut off
PAGE_DEADLINE: Final = 10.0  # seconds

_IN_FLIGHT: Final = 256
_LOOKED_AT: Final = 20_000  # lines that a page may be looked for in
_PART: Final = 5_000  # lines, or a few times as many, are looked at together
# A line is stored after it was logged, however late; but the clock of its host may be fast.
_FAST_CLOCK: Final = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class LogSource:
    """Where lines come from; `*` for any, to read with."""

    org_id: str
    endpoint_id: str
    replica_id: str = "*"
    source: str = "*"  # agent, build, front or triton

    @property
    def subject(self) -> str:
        """The subject of its lines."""
        tokens = (self.org_id, self.endpoint_id, self.replica_id, self.source)
        for token in tokens:
            if not token or any(character in token for character in ". \t\r\n>"):
                raise ValueError(f"{token!r} cannot be part of a log's subject")
        return ".".join((PREFIX, *tokens))


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line as it is published."""

    time: datetime  # when it was logged or first seen
    line: str  # without its line break
    offset: int  # where it begins in its source, in bytes: publishing it again changes nothing


@dataclass(frozen=True, slots=True)
class StoredLine:
    """One line as it is read."""

    sequence: int  # place among all lines; later ones are greater
    replica_id: str
    source: str
    time: datetime
    line: str


@dataclass(frozen=True, slots=True)
class Period:
    """When lines were logged; None leaves it open."""

    since: datetime | None = None  # then or later
    until: datetime | None = None  # before then

    def __contains__(self, time: datetime) -> bool:
        """Tell whether a moment lies in it."""
        return (self.since is None or time >= self.since) and (
            self.until is None or time < self.until
        )

    def is_over(self, stored_at: datetime) -> bool:
        """Tell whether what was stored at a moment was logged before it, and all before that."""
        return self.since is not None and stored_at < self.since - _FAST_CLOCK


ALWAYS: Final = Period()


@dataclass(frozen=True, slots=True)
class LogPage:
    """Lines, newest first; with a period they may be fewer than asked for, and yet not the last.

    Pages follow one another as their lines were stored; what a cut-off host logged comes later.
    """

    lines: Sequence[StoredLine]
    before: int | None  # pass it to `read_logs` for the lines before these; None: there are none
    after: int  # pass it to `follow_logs` for the lines that come after these


async def publish_logs(bus: Bus, source: LogSource, lines: Sequence[LogLine]) -> None:
    """Return when the broker holds all `lines`.

    Raises:
        BusUnavailableError: it may not hold all of them; publish them again.

    """
    for start in range(0, len(lines), _IN_FLIGHT):
        batch = lines[start : start + _IN_FLIGHT]
        await asyncio.gather(*(_publish(bus, source, line) for line in batch))


async def read_logs(
    bus: Bus,
    source: LogSource,
    *,
    limit: int,
    before: int | None = None,
    period: Period = ALWAYS,
) -> LogPage:
    """Return the last `limit` lines of `source`, or the last ones before sequence `before`.

    Args:
        bus: where they are.
        source: whose.
        limit: how many lines at most.
        before: only lines that were stored before this one.
        period: only lines that were logged in it, however late they were stored.

    Raises:
        BusUnavailableError: the broker did not answer.

    """
    return await bus.call(
        lambda js: _read_page(js, source, limit, before, period), deadline=PAGE_DEADLINE
    )


async def follow_logs(bus: Bus, source: LogSource, *, after: int) -> AsyncGenerator[StoredLine]:
    """Yield the lines of `source` after sequence `after`, for ever, as they come.

    It goes on where it was after the broker went away. 0 begins with the oldest line.
    """
    lines: asyncio.Queue[StoredLine] = asyncio.Queue(maxsize=1000)
    last = after

    async def work(js: JetStreamContext) -> None:
        nonlocal last
        state = (await js.stream_info(LOGS)).state
        if state.last_seq < last:  # the broker lost its store: what it has now is all new
            last = 0
        async with reading(js, LOGS, _from(source, last + 1)) as reader:
            while True:
                for message in await reader.batch():
                    line = _stored(message)
                    await lines.put(line)
                    last = line.sequence

    following = asyncio.create_task(bus.each_connection(work))
    try:
        while True:
            yield await lines.get()
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


async def _publish(bus: Bus, source: LogSource, line: LogLine) -> None:
    time = line.time.astimezone(UTC).isoformat().replace("+00:00", "Z")
    payload = json.dumps({"time": time, "line": line.line[:LONGEST_LINE]}, ensure_ascii=False)
    data = payload.encode("utf-8", "replace")
    # What it says is part of its name, because a rotated file begins at offset 0 again.
    name = f"{source.replica_id}.{source.source}.{line.offset}.{crc32(data):08x}"
    await bus.call(
        lambda js: js.publish(source.subject, data, stream=LOGS, headers={"Nats-Msg-Id": name})
    )


async def _read_page(
    js: JetStreamContext, source: LogSource, limit: int, before: int | None, period: Period
) -> LogPage:
    try:
        state = (await js.stream_info(LOGS)).state
    except NotFoundError:  # nobody has logged anything yet
        return LogPage((), None, 0)
    first = max(1, state.first_seq)
    end = min(before or state.last_seq + 1, state.last_seq + 1)
    found: list[StoredLine] = []
    looked_at, size = 0, limit
    while len(found) < limit and looked_at < _LOOKED_AT and end > first:
        start = await _start_of_page(js, source, size, first, end)
        part = await _read_part(js, source, start, end, limit - len(found), period)
        found += part.lines
        looked_at, size = looked_at + part.count, min(4 * size, _PART)
        end = found[-1].sequence if len(found) == limit else start
        if part.over:
            break
    more = end > first and not (len(found) < limit and part.over)
    found.sort(key=lambda line: (line.time, line.sequence), reverse=True)
    return LogPage(tuple(found), end if more else None, state.last_seq)


@dataclass(frozen=True, slots=True)
class _Part:
    """What was found in a part of the stream."""

    lines: Sequence[StoredLine]  # newest first
    count: int  # of all lines that were read
    over: bool  # what comes before it is too old


async def _read_part(
    js: JetStreamContext, source: LogSource, start: int, end: int, limit: int, period: Period
) -> _Part:
    """Return the last lines of a period between two sequences, `limit` at most."""
    last: deque[StoredLine] = deque(maxlen=limit)
    count, over = 0, False
    async with reading(js, LOGS, _from(source, start)) as reader:
        reached = start
        while reader.pending and reached < end:
            for message in await reader.batch():
                reached = message.metadata.sequence.stream
                if reached >= end:
                    break
                over = over or period.is_over(message.metadata.timestamp)
                count += 1
                line = _stored(message)
                if line.time in period:
                    last.appendleft(line)
    return _Part(tuple(last), count, over)


async def _start_of_page(
    js: JetStreamContext, source: LogSource, limit: int, first: int, end: int
) -> int:
    """Return a sequence from which `limit` lines, or not many more, lie before `end`.

    JetStream reads forward only, but tells at once how many messages a reader would get: so look
    back in growing steps, then halve until little is read in vain. When there are fewer lines
    than `limit`, it is `first`.
    """
    beyond = await _count(js, source, end)
    few, many = end, end  # from `few` on there are too few lines, from `many` on enough
    lines, step = 0, limit
    while lines < limit and many > first:
        few, many = many, max(first, end - step)
        lines = await _count(js, source, many) - beyond
        step *= 4
    while lines > 4 * limit:
        middle = (few + many) // 2
        found = await _count(js, source, middle) - beyond
        if found < limit:
            few = middle
        else:
            many, lines = middle, found
    return many


async def _count(js: JetStreamContext, source: LogSource, start: int) -> int:
    """Return how many lines of `source` there are from sequence `start` on."""
    config = _from(source, start).evolve(inactive_threshold=1.0)
    return (await js.add_consumer(LOGS, config)).num_pending or 0


def _from(source: LogSource, start: int) -> ConsumerConfig:
    return ConsumerConfig(
        deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
        opt_start_seq=start,
        ack_policy=AckPolicy.NONE,
        filter_subject=source.subject,
        inactive_threshold=FORGOTTEN,
        mem_storage=True,
    )


def _stored(message: Msg) -> StoredLine:
    *_, replica_id, source = message.subject.split(".")
    payload = json.loads(message.data)
    return StoredLine(
        sequence=message.metadata.sequence.stream,
        replica_id=replica_id,
        source=source,
        time=datetime.fromisoformat(payload["time"]),
        line=payload["line"],
    )
