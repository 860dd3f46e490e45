"""State that one service owns and others hold copies of, in JetStream's key-value buckets.

Entries are protobuf messages, ordered by (term, generation). An entry is replaced only by a later
one and removed only by a tombstone, so neither an old leader nor a broker that lost its store can
take anything away: the owner writes all of it again, and watchers keep what they have meanwhile.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final, Generic, TypeAlias, TypeVar

import structlog
from google.protobuf.message import DecodeError, Message
from nats.js import JetStreamContext
from nats.js.api import (
    AckPolicy,
    ConsumerConfig,
    DeliverPolicy,
    Header,
    KeyValueConfig,
    StorageType,
)
from nats.js.errors import APIError, BucketNotFoundError, NotFoundError

from engineshed.bus.client import Bus
from engineshed.bus.errors import BusUnavailableError, StaleEntryError
from engineshed.bus.reading import FORGOTTEN, reading

M = TypeVar("M", bound=Message)
Order: TypeAlias = tuple[int, int]  # (term, generation)

REWRITE_INTERVAL: Final = 30.0  # seconds

_ATTEMPTS: Final = 5
_NOTHING: Final[Order] = (-1, -1)  # earlier than any entry
_KEY: Final = re.compile(r"[A-Za-z0-9_=-]+")
_WRONG_LAST_SEQUENCE: Final = (10071, 10164)  # JetStream's codes for a lost compare-and-set

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Bucket(Generic[M]):
    """A bucket and how to read its entries."""

    name: str
    message_type: type[M]
    order: Callable[[M], Order]
    is_tombstone: Callable[[M], bool]

    @property
    def stream(self) -> str:
        """Name of the stream that holds it."""
        return f"KV_{self.name}"

    @property
    def prefix(self) -> str:
        """What stands before a key in the subject of its entry."""
        return f"$KV.{self.name}."

    @property
    def reader(self) -> ConsumerConfig:
        """A consumer that begins with the last value of every key."""
        return ConsumerConfig(
            deliver_policy=DeliverPolicy.LAST_PER_SUBJECT,
            ack_policy=AckPolicy.NONE,
            filter_subject=f"{self.prefix}>",
            inactive_threshold=FORGOTTEN,
            mem_storage=True,
        )


@dataclass(frozen=True, slots=True)
class _Held:
    """What the bucket holds under a key."""

    revision: int
    order: Order
    data: bytes


_ABSENT: Final = _Held(0, _NOTHING, b"")


class KeyValueOwner(Generic[M]):
    """The one who writes a bucket; `run` it beside calling `put`."""

    def __init__(
        self, bus: Bus, bucket: Bucket[M], entries: Callable[[], Awaitable[Mapping[str, M]]]
    ) -> None:
        """Make the owner.

        Args:
            bus: the connection, whose user may write the bucket.
            bucket: the bucket; it is made if it is missing.
            entries: returns all entries that the bucket should hold, tombstones included.

        """
        self._bus = bus
        self._bucket = bucket
        self._entries = entries
        self._held: dict[str, _Held] = {}
        bus.metrics.written[bucket.name] = 0

    async def run(self) -> None:
        """Write all entries on every connection and every REWRITE_INTERVAL, until cancelled."""
        await self._bus.each_connection(self._keep)

    async def put(self, key: str, entry: M) -> None:
        """Return when the bucket holds `entry` under `key`.

        Raises:
            StaleEntryError: it holds a later one; nothing was written.
            BusUnavailableError: it may not hold it. The next rewrite brings it.
            ValueError: `key` has other characters than letters, digits and `-_=`.

        """
        if not _KEY.fullmatch(key):
            raise ValueError(f"{key!r} cannot be a key of bucket {self._bucket.name}")
        try:
            await self._bus.call(lambda js: self._write(js, key, entry))
        except APIError as error:
            raise BusUnavailableError(f"NATS does not take {key}: {error}") from error

    async def _keep(self, js: JetStreamContext) -> None:
        while True:
            await self._rewrite(js)
            await asyncio.sleep(REWRITE_INTERVAL)

    async def _rewrite(self, js: JetStreamContext) -> None:
        await _ensure(js, self._bucket, self._bus.replicas)
        self._held = await self._read_all(js)
        later: list[str] = []
        for key, entry in (await self._entries()).items():
            try:
                await self._write(js, key, entry)
            except StaleEntryError:
                later.append(key)
        if later:
            log.warning(
                "bus.bucket_is_ahead", bucket=self._bucket.name, entries=len(later), first=later[0]
            )

    async def _write(self, js: JetStreamContext, key: str, entry: M) -> None:
        """Write `entry` unless what is there is the same or later."""
        data = entry.SerializeToString(deterministic=True)
        order = self._bucket.order(entry)
        for _ in range(_ATTEMPTS):
            held = self._held.get(key, _ABSENT)
            if held.order > order:
                raise StaleEntryError(
                    f"bucket {self._bucket.name} holds {key} of (term, generation) {held.order}, "
                    f"which is later than {order}; read the present state, then write again",
                    bucket=self._bucket.name,
                    key=key,
                )
            if held.data == data:
                return
            try:
                ack = await js.publish(
                    f"{self._bucket.prefix}{key}",
                    data,
                    stream=self._bucket.stream,
                    headers={Header.EXPECTED_LAST_SUBJECT_SEQUENCE.value: str(held.revision)},
                )
            except APIError as error:
                if error.err_code not in _WRONG_LAST_SEQUENCE:
                    raise
                self._held[key] = await self._read(js, key)
            else:
                self._held[key] = _Held(ack.seq, order, data)
                self._bus.metrics.written[self._bucket.name] += 1
                return
        raise BusUnavailableError(
            f"{key} in bucket {self._bucket.name} kept changing while it was written; try again"
        )

    async def _read(self, js: JetStreamContext, key: str) -> _Held:
        try:
            message = await js.get_last_msg(self._bucket.stream, f"{self._bucket.prefix}{key}")
        except NotFoundError:
            return _ABSENT
        return self._as_held(message.seq or 0, message.data or b"")

    async def _read_all(self, js: JetStreamContext) -> dict[str, _Held]:
        found: dict[str, _Held] = {}
        async with reading(js, self._bucket.stream, self._bucket.reader) as reader:
            while reader.pending:
                for message in await reader.batch():
                    key = message.subject.removeprefix(self._bucket.prefix)
                    sequence = message.metadata.sequence
                    found[key] = self._as_held(sequence.stream, message.data)
        return found

    def _as_held(self, revision: int, data: bytes) -> _Held:
        try:
            order = self._bucket.order(self._bucket.message_type.FromString(data))
        except DecodeError:
            log.exception("bus.unreadable_entry", bucket=self._bucket.name, revision=revision)
            order = _NOTHING
        return _Held(revision, order, data)


async def _ensure(js: JetStreamContext, bucket: Bucket[M], replicas: int) -> None:
    try:
        await js.key_value(bucket.name)
    except BucketNotFoundError:
        config = KeyValueConfig(bucket=bucket.name, storage=StorageType.FILE, replicas=replicas)
        await js.create_key_value(config)
