"""The logs of replicas on their way to the broker.

Each replica logs into files below its folder, whatever happens to the agent or the broker. Here
they are read on from where the last batch ended, which is remembered beside them. A batch that was
published but not remembered is published again, and the broker drops it by its lines' names. So
nothing is lost, and nothing doubled unless the agent is away between the two for ten minutes.
"""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import structlog

from engineshed.agent.files import write_private
from engineshed.agent.replicas import BUILD_LOG, FRONT_LOG, TRITON_LOG
from engineshed.bus import Bus, BusUnavailableError, LogLine, LogSource, publish_logs

_SOURCES: Final[Mapping[str, str]] = {
    "build": BUILD_LOG,
    "front": FRONT_LOG,
    "triton": TRITON_LOG,
}
_OFFSETS: Final = "offsets.json"
_BATCH_BYTES: Final = 128 * 1024
_LOOK_SECONDS: Final = 0.5
_RETRY_SECONDS: Final = 1.0

log = structlog.get_logger()


@dataclass(slots=True)
class _Diary:
    """The logs of one replica."""

    folder: Path
    org_id: str
    endpoint_id: str
    replica_id: str
    offsets: dict[str, int]
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
            folder, org_id, endpoint_id, replica_id, _read_offsets(folder)
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
            try:
                more = [await self._ship(diary) for diary in list(self._diaries.values())]
            except BusUnavailableError:
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            except OSError as error:  # e.g. a full disk: what was not remembered comes again
                log.warning("logs_not_read", error=str(error))
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            if not any(more):
                await asyncio.sleep(_LOOK_SECONDS)

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
        offset = diary.offsets.get(source, 0)
        lines, end = await asyncio.to_thread(_read_lines, path, offset, complete)
        if end == offset:
            return False
        await publish_logs(
            self._bus,
            LogSource(diary.org_id, diary.endpoint_id, diary.replica_id, source),
            lines,
        )
        diary.offsets[source] = end
        await asyncio.to_thread(_write_offsets, diary.folder, diary.offsets)
        return True


def _read_lines(path: Path, offset: int, complete: bool) -> tuple[list[LogLine], int]:
    """Return the lines after `offset`, a batch at most, and where they end.

    A line without its break is left for later, unless the log is complete or the line fills the
    batch. A file that has become shorter is read from its beginning.
    """
    try:
        with path.open("rb") as file:
            if file.seek(0, 2) < offset:
                offset = 0
            file.seek(offset)
            data = file.read(_BATCH_BYTES)
    except FileNotFoundError:
        return [], offset
    whole = data.rfind(b"\n") + 1
    if complete or (whole == 0 and len(data) == _BATCH_BYTES):
        whole = len(data) if len(data) < _BATCH_BYTES or whole == 0 else whole
    seen = datetime.now(UTC)
    lines, start = [], offset
    for line in data[:whole].splitlines(keepends=True):
        text = line.decode("utf-8", "replace").rstrip("\r\n")
        if text:
            lines.append(LogLine(_time_of(text) or seen, text, start))
        start += len(line)
    return lines, start


def _time_of(line: str) -> datetime | None:
    """Return when a line of ours was logged; None for any other."""
    if not line.startswith("{"):
        return None
    try:
        return datetime.fromisoformat(json.loads(line)["timestamp"])
    except (ValueError, KeyError, TypeError):
        return None


def _read_offsets(folder: Path) -> dict[str, int]:
    try:
        offsets = json.loads((folder / _OFFSETS).read_bytes())
        return {source: int(offsets[source]) for source in _SOURCES if source in offsets}
    except (FileNotFoundError, ValueError):
        return {}


def _write_offsets(folder: Path, offsets: Mapping[str, int]) -> None:
    write_private(folder / _OFFSETS, json.dumps(offsets).encode(), durable=False)
