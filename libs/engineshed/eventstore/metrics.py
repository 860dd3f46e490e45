"""What an event store and its relay measure."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from engineshed.errors import DomainError, Kind
from engineshed.eventstore.errors import RequestRepeatedError, StreamConflictError
from engineshed.runtime import utc_now
from engineshed.telemetry import Outcomes, counter, durations, gauge

if TYPE_CHECKING:  # it makes these
    from engineshed.eventstore.relay import Relay
    from engineshed.eventstore.writer import Outcome

_BATCHES: Final = tuple(float(2**power) for power in range(10))  # to 512, the largest


class StoreMetrics(Collector):
    """The appends of one store."""

    def __init__(self) -> None:
        self._events = 0
        self._appends = Outcomes("committed", "conflict", "repeated", "refused", "failed")
        self._batches = durations(
            "engineshed_eventstore_batch_size", "Appends of one transaction.", buckets=_BATCHES
        )
        self._commits = durations(
            "engineshed_eventstore_commit_duration_seconds",
            "One transaction, until it is on disk or has failed.",
        )

    def note(self, outcomes: Sequence["Outcome"], seconds: float) -> None:
        """Take note of a batch that was tried."""
        self._batches.observe(len(outcomes))
        self._commits.observe(seconds)
        for outcome in outcomes:
            self._appends[_name_of(outcome)] += 1
            if isinstance(outcome, list):
                self._events += len(outcome)

    def collect(self) -> Iterable[Metric]:
        """Return the metrics."""
        yield counter(
            "engineshed_eventstore_appends",
            "Appends by outcome; a conflict is tried again by its caller.",
            self._appends,
            ("outcome",),
        )
        yield counter("engineshed_eventstore_events", "Events recorded here.", self._events)
        yield from self._batches.collect()
        yield from self._commits.collect()


class RelayMetrics(Collector):
    """How far a relay is."""

    def __init__(self, relay: "Relay") -> None:
        self._relay = relay
        self.interruptions = 0

    def collect(self) -> Iterable[Metric]:
        """Return the metrics."""
        relay = self._relay
        oldest = relay.oldest_unpublished
        age = (utc_now() - oldest).total_seconds() if oldest else 0.0
        yield gauge(
            "engineshed_relay_lag_events", "Committed events that are not published.", relay.lag
        )
        yield gauge(
            "engineshed_relay_oldest_unpublished_age_seconds",
            "Since the oldest of them was recorded; 0 when there is none.",
            max(0.0, age),
        )
        yield counter(
            "engineshed_relay_published",
            "Events that the broker has acknowledged, repetitions included.",
            relay.published,
        )
        yield counter(
            "engineshed_relay_interruptions",
            "How often publishing failed and was begun anew.",
            self.interruptions,
        )


def _name_of(outcome: "Outcome") -> str:
    if isinstance(outcome, StreamConflictError):
        return "conflict"
    if isinstance(outcome, RequestRepeatedError):
        return "repeated"
    if isinstance(outcome, DomainError) and outcome.kind is not Kind.UNAVAILABLE:
        return "refused"
    return "failed" if isinstance(outcome, Exception) else "committed"
