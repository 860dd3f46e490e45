"""NATS: events out and in, state shared by key, and the log lines of replicas.

`Bus` is the connection, which comes back by itself; everything else here hangs on it. What the
embedded broker needs to start is in `engineshed.bus.embedded`.
"""

from engineshed.bus.buckets import ROUTES, TOKENS
from engineshed.bus.client import Bus
from engineshed.bus.consume import consume
from engineshed.bus.errors import BusUnavailableError, StaleEntryError, UnreadableEventError
from engineshed.bus.events import ReceivedEvent, subject_of
from engineshed.bus.kv import Bucket, KeyValueOwner
from engineshed.bus.kv_watch import KeyValueWatcher
from engineshed.bus.logs import (
    LogLine,
    LogPage,
    LogSource,
    Period,
    StoredLine,
    follow_logs,
    publish_logs,
    read_logs,
)
from engineshed.bus.publish import EventPublisher
from engineshed.bus.streams import ensure_streams

__all__ = [
    "ROUTES",
    "TOKENS",
    "Bucket",
    "Bus",
    "BusUnavailableError",
    "EventPublisher",
    "KeyValueOwner",
    "KeyValueWatcher",
    "LogLine",
    "LogPage",
    "LogSource",
    "Period",
    "ReceivedEvent",
    "StaleEntryError",
    "StoredLine",
    "UnreadableEventError",
    "consume",
    "ensure_streams",
    "follow_logs",
    "publish_logs",
    "read_logs",
    "subject_of",
]
