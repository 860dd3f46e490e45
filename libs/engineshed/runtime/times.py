"""Times are aware and in UTC, in memory and in messages."""

from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp


def utc_now() -> datetime:
    """Return the present moment."""
    return datetime.now(UTC)


def to_timestamp(moment: datetime) -> Timestamp:
    """Return `moment` as a message."""
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp


def from_timestamp(stamp: Timestamp) -> datetime:
    """Return the moment that `stamp` names."""
    return stamp.ToDatetime(tzinfo=UTC)
