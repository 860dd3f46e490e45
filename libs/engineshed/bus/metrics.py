"""What a process measures of its connection to the broker, and of what it does over it."""

import time
from collections import defaultdict
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from engineshed.telemetry import Outcomes, counter, gauge

if TYPE_CHECKING:  # they count here
    from engineshed.bus.client import Bus
    from engineshed.bus.kv_watch import KeyValueWatcher


class BusMetrics(Collector):
    """One connection, its durable consumers and its buckets; each adds itself by its name."""

    def __init__(self, bus: "Bus") -> None:
        self._bus = bus
        self.consumers: defaultdict[str, ConsumerCounts] = defaultdict(ConsumerCounts)
        self.watched: dict[str, KeyValueWatcher[Any]] = {}
        self.written = Outcomes()
        """Entries that were written, by bucket."""

    def collect(self) -> Iterable[Metric]:
        """Return the metrics."""
        bus = self._bus
        yield gauge("engineshed_bus_connected", "1 while NATS is there.", float(bus.connected))
        yield counter(
            "engineshed_bus_connections",
            "Connections so far; each after the first is a reconnect.",
            bus.connections,
        )
        yield from self._of_consumers()
        yield from self._of_buckets()

    def _of_consumers(self) -> Iterable[Metric]:
        consumers = list(self.consumers.items())
        yield gauge(
            "engineshed_bus_consumer_pending",
            "Events that wait in the broker for this consumer, as it said last.",
            {name: counts.pending for name, counts in consumers},
            ("consumer",),
        )
        yield counter(
            "engineshed_bus_consumer_events",
            "Events that came, by what became of them; one that failed comes again.",
            [
                ((name, outcome), count)
                for name, counts in consumers
                for outcome, count in list(counts.outcomes.items())
            ],
            ("consumer", "outcome"),
        )
        yield counter(
            "engineshed_bus_consumer_redelivered",
            "Events that came another time.",
            {name: counts.redelivered for name, counts in consumers},
            ("consumer",),
        )

    def _of_buckets(self) -> Iterable[Metric]:
        watched, now = list(self.watched.items()), time.monotonic()
        yield gauge(
            "engineshed_bus_bucket_entries",
            "Entries in this process's copy of a bucket.",
            {name: len(watcher.entries) for name, watcher in watched},
            ("bucket",),
        )
        yield gauge(
            "engineshed_bus_bucket_confirmed_age_seconds",
            "Since the copy was last known to be what the bucket holds.",
            {name: now - (one.confirmed_at or one.began) for name, one in watched},
            ("bucket",),
        )
        yield counter(
            "engineshed_bus_bucket_writes",
            "Entries that this process has written.",
            self.written,
            ("bucket",),
        )


class ConsumerCounts:
    """What became of a durable consumer's events."""

    def __init__(self) -> None:
        self.pending = 0
        self.redelivered = 0
        self.outcomes = Outcomes("handled", "failed")
