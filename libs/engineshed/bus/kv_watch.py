"""A copy of a bucket that outlives the broker: in memory, and on disk to start from."""

import asyncio
import base64
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final, Generic

import structlog
from google.protobuf.message import DecodeError
from nats.aio.msg import Msg
from nats.js import JetStreamContext

from engineshed.bus.client import Bus
from engineshed.bus.kv import Bucket, M
from engineshed.bus.reading import reading
from engineshed.runtime import write_private

# Seconds.
COPY_DELAY: Final = 1.0  # changes that come together are written together
COPY_RETRY: Final = 30.0

log = structlog.get_logger()


class KeyValueWatcher(Generic[M]):
    """Holds the latest entry of every key; `run` it."""

    def __init__(
        self,
        bus: Bus,
        bucket: Bucket[M],
        *,
        copy: Path | None = None,
        on_change: Callable[[str, M | None], None] | None = None,
    ) -> None:
        """Make the watcher.

        Args:
            bus: the connection, whose user may read the bucket.
            bucket: what to watch.
            copy: file to keep the entries in (0600) and to begin with when NATS is down.
            on_change: called with the key and its new entry, None when a tombstone removed it.

        """
        self._bus = bus
        self._bucket = bucket
        self._copy = copy
        self._on_change = on_change
        self._latest: dict[str, M] = {}  # tombstones included: they outrank late older entries
        self._entries: dict[str, M] = {}
        self._confirmed_at: float | None = None
        self.began = time.monotonic()
        self._ready = asyncio.Event()
        self._changed = asyncio.Event()
        bus.metrics.watched[bucket.name] = self

    @property
    def entries(self) -> Mapping[str, M]:
        """All present entries by key; a live view."""
        return MappingProxyType(self._entries)

    @property
    def confirmed_at(self) -> float | None:
        """When the entries were last known to be those of the bucket, by `time.monotonic`.

        None: not since this process began; they are the copy's, or none.
        """
        return self._confirmed_at

    async def ready(self) -> None:
        """Return when there is a first set of entries, from the bucket or from the copy."""
        await self._ready.wait()

    async def run(self) -> None:
        """Watch until cancelled, anew on every connection."""
        await self._load_copy()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._keep_copy())
            tasks.create_task(self._bus.each_connection(self._watch))

    async def _watch(self, js: JetStreamContext) -> None:
        async with reading(js, self._bucket.stream, self._bucket.reader) as reader:
            while True:
                if reader.pending == 0:
                    self._confirmed_at = time.monotonic()
                    self._ready.set()
                for message in await reader.batch():
                    self._receive(message)

    def _receive(self, message: Msg) -> None:
        key = message.subject.removeprefix(self._bucket.prefix)
        if not message.data:  # a deletion, which no owner makes: only a tombstone removes
            log.warning("bus.deletion_ignored", bucket=self._bucket.name, key=key)
            return
        try:
            entry = self._bucket.message_type.FromString(message.data)
        except DecodeError:
            log.exception("bus.unreadable_entry", bucket=self._bucket.name, key=key)
            return
        self._take(key, entry)

    def _take(self, key: str, entry: M) -> None:
        latest = self._latest.get(key)
        order = self._bucket.order
        if latest is not None and (order(entry) < order(latest) or entry == latest):
            return
        self._latest[key] = entry
        present = None if self._bucket.is_tombstone(entry) else entry
        if present is None:
            self._entries.pop(key, None)
        else:
            self._entries[key] = present
        self._changed.set()
        if self._on_change is not None:
            self._on_change(key, present)

    async def _load_copy(self) -> None:
        if self._copy is None:
            return
        try:
            text = await asyncio.to_thread(self._copy.read_text)
            for key, data in json.loads(text)["entries"].items():
                self._take(key, self._bucket.message_type.FromString(base64.b64decode(data)))
        except FileNotFoundError:
            return
        except (OSError, ValueError, TypeError, KeyError, AttributeError, DecodeError):
            log.exception("bus.copy_unreadable", path=str(self._copy))
            return
        self._changed.clear()
        self._ready.set()

    async def _keep_copy(self) -> None:
        try:
            while True:
                await self._changed.wait()
                await asyncio.sleep(COPY_DELAY)
                if not await self._save_copy():
                    await asyncio.sleep(COPY_RETRY)
        finally:
            if self._changed.is_set():
                await self._save_copy()

    async def _save_copy(self) -> bool:
        if self._copy is None:
            self._changed.clear()
            return True
        entries = {
            key: base64.b64encode(entry.SerializeToString()).decode()
            for key, entry in self._latest.items()
        }
        text = json.dumps({"bucket": self._bucket.name, "entries": entries}, indent=1)
        self._changed.clear()
        try:
            await asyncio.to_thread(write_private, self._copy, text.encode())
        except OSError:
            log.exception("bus.copy_not_saved", path=str(self._copy))
            self._changed.set()
            return False
        return True
