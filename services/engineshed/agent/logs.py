"""The logs of replicas on their way to the broker.

Each replica logs into files below its folder, whatever happens to the agent or the broker. Here
they are read on from where the last batch ended. Before a batch is published, its bounds and the
time at which it was first seen are written down beside the logs, and after it, that it is out. So a
batch whose agent died in between is published again just as it was, and the broker drops what it
has: nothing is lost, and nothing doubled unless the agent was away for ten minutes just then.

A replica may log for months. What was shipped long ago gives its place on the disk back.
"""

import asyncio
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import structlog
from pydantic import TypeAdapter

from engineshed.agent.files import free_beginning
from engineshed.agent.replicas import AGENT_LOG, BUILD_LOG, FRONT_LOG, TRITON_LOG
from engineshed.bus import Bus, BusUnavailableError, LogLine, LogSource, publish_logs
from engineshed.runtime import write_private

_SOURCES: Final[Mapping[str, str]] = {
    "build": BUILD_LOG,
    "front": FRONT_LOG,
    "triton": TRITON_LOG,
    "agent": AGENT_LOG,  # last: it says how the others ended
}
_OFFSETS: Final = "offsets.json"
_BATCH_BYTES: Final = 128 * 1024
_KEPT_BYTES: Final = 16 * 1024 * 1024
"""How much of what was shipped stays on disk, for whoever looks there, before as much is freed."""
_LOOK_SECONDS: Final = 0.5
_RETRY_SECONDS: Final = 1.0

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Place:
    """How far a file was shipped, and the batch that is on its way."""

    offset: int = 0
    end: int = 0
    """Where the batch ends; `offset`: none is on its way."""
    seen: datetime | None = None
    """When the last batch was first seen."""


@dataclass(slots=True)
class _Diary:
    """The logs of one replica."""

    folder: Path
    org_id: str
    endpoint_id: str
    replica_id: str
    places: dict[str, _Place]
    complete: bool = False
    """Nobody writes into the files any more."""
    shipped: asyncio.Event = field(default_factory=asyncio.Event)
    """All of it is in the broker, once it is complete."""


class LogShipper:
    """Carries what replicas log to the broker, in bounded memory."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._diaries: dict[str, _Diary] = {}

    def follow(self, folder: Path, org_id: str, endpoint_id: str, replica_id: str) -> None:
        """Ship the logs below `folder` from now on. Blocks for a moment."""
        self._diaries[replica_id] = _Diary(
            folder, org_id, endpoint_id, replica_id, _read_places(folder)
        )

    async def finish(self, replica_id: str) -> None:
        """Return once everything that a replica, which has ended, logged is in the broker."""
        diary = self._diaries[replica_id]
        diary.complete = True
        await diary.shipped.wait()
        del self._diaries[replica_id]

    async def run(self) -> None:
        """Ship for ever, and wait whenever the broker is away."""
        while True:
            more, trouble = False, False
            for diary in list(self._diaries.values()):
                try:
                    more |= await self._ship(diary)
                except BusUnavailableError:
                    trouble = True
                    break
                except OSError as error:  # e.g. a full disk: what was not remembered comes again
                    log.warning("logs_not_read", replica_id=diary.replica_id, error=str(error))
                    trouble = True
            if trouble or not more:
                await asyncio.sleep(_RETRY_SECONDS if trouble else _LOOK_SECONDS)

    async def _ship(self, diary: _Diary) -> bool:
        """Ship a batch of each file; tell whether there may be more at once."""
        more = False
        complete = diary.complete
        for source, name in _SOURCES.items():
            more |= await self._ship_file(diary, source, diary.folder / name, complete)
        if complete and not more:
            diary.shipped.set()
        return more

    async def _ship_file(self, diary: _Diary, source: str, path: Path, complete: bool) -> bool:
        place = diary.places.get(source, _Place())
        if place.end == place.offset:
            begin, end = await asyncio.to_thread(_next_batch, path, place.offset, complete)
            if begin == end:
                return False
            place = _Place(begin, end, datetime.now(UTC))
            await self._remember(diary, source, place)
        lines = await asyncio.to_thread(_read_lines, path, place)
        where = LogSource(diary.org_id, diary.endpoint_id, diary.replica_id, source)
        await publish_logs(self._bus, where, lines)
        await self._remember(diary, source, replace(place, offset=place.end))
        if _old(place.end) > _old(place.offset):
            await asyncio.to_thread(free_beginning, path, _old(place.end))
        return True

    async def _remember(self, diary: _Diary, source: str, place: _Place) -> None:
        diary.places[source] = place
        await asyncio.to_thread(_write_places, diary.folder, diary.places)


def _old(shipped: int) -> int:
    """Return how many of the bytes that were shipped nobody needs on disk any more."""
    return max(0, shipped // _KEPT_BYTES - 1) * _KEPT_BYTES


def _next_batch(path: Path, offset: int, complete: bool) -> tuple[int, int]:
    """Return where the next lines begin and end, a batch at most.

    A line without its break is left for later, unless the log is complete or the line fills the
    batch. A file that has become shorter is read from its beginning.
    """
    try:
        with path.open("rb") as file:
            if file.seek(0, os.SEEK_END) < offset:
                offset = 0
            file.seek(offset)
            data = file.read(_BATCH_BYTES)
    except FileNotFoundError:
        return offset, offset
    whole = data.rfind(b"\n") + 1
    full = len(data) == _BATCH_BYTES
    if (complete and not full) or (full and whole == 0):
        whole = len(data)
    return offset, offset + whole


def _read_lines(path: Path, place: _Place) -> list[LogLine]:
    with path.open("rb") as file:
        file.seek(place.offset)
        data = file.read(place.end - place.offset)
    assert place.seen is not None, "every batch was seen"
    lines, start = [], place.offset
    for line in data.splitlines(keepends=True):
        text = line.decode("utf-8", "replace").rstrip("\r\n")
        if text:
            lines.append(LogLine(_time_of(text) or place.seen, text, start))
        start += len(line)
    return lines


def _time_of(line: str) -> datetime | None:
    """Return when a line of ours was logged; None for any other."""
    if not line.startswith("{"):
        return None
    try:
        return datetime.fromisoformat(json.loads(line)["timestamp"])
    except (ValueError, KeyError, TypeError):
        return None


def _read_places(folder: Path) -> dict[str, _Place]:
    try:
        return _PLACES.validate_json((folder / _OFFSETS).read_bytes())
    except (FileNotFoundError, ValueError):
        return {}


def _write_places(folder: Path, places: Mapping[str, _Place]) -> None:
    write_private(folder / _OFFSETS, _PLACES.dump_json(dict(places)), durable=False)


_PLACES: Final = TypeAdapter(dict[str, _Place])
