"""Billed intervals, computed from the events alone, against the lives of the replicas.

A replica is billed from when it is ready to the first of draining, failed or lost; one that is
found again, from then on.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Final, TypeAlias

from tests.chaos.accounts import unpacked

from engineshed.api.events.v1.event_service_pb2 import Event
from engineshed.api.scheduler.v1 import events_pb2 as scheduler

_BEFORE: Final = (
    scheduler.ReplicaFetching,
    scheduler.ReplicaBuilding,
    scheduler.ReplicaLoading,
)
_BEGINS: Final = (scheduler.ReplicaReady, scheduler.ReplicaFound)
_ENDS: Final = (scheduler.ReplicaDraining, scheduler.ReplicaFailed, scheduler.ReplicaLost)
_AFTER: Final = (scheduler.ReplicaStopped,)
_OF_REPLICAS: Final = (*_BEFORE, *_BEGINS, *_ENDS, *_AFTER)

_EXACT: Final = timedelta(seconds=5)  # hosts look, and tell ages; on a busy machine they are late

Interval: TypeAlias = tuple[datetime, datetime]
_Moment: TypeAlias = tuple[type, datetime]


@dataclass(frozen=True, slots=True)
class Span:
    """A time of a replica's life; without an end it goes on."""

    replica_id: str
    begin: datetime
    end: datetime | None


def billed(events: Iterable[Event]) -> list[Span]:
    """Return what is billed."""
    return [
        span
        for replica_id, moments in _lives(events).items()
        for span in _billed(replica_id, moments)
    ]


def wrong_bills(events: Sequence[Event]) -> list[str]:
    """Return the replicas whose times go back, or that are billed before or after they serve."""
    return [
        f"{replica_id}: {what}"
        for replica_id, moments in _lives(events).items()
        for what in _wrong(replica_id, moments)
    ]


def beyond(bills: Iterable[Span], seen: Sequence[Span], disturbed: Sequence[Interval]) -> list[str]:
    """Return the bills for more than their hosts saw.

    Only those are judged of whose replicas anything was seen. What a host says of an end carries
    its age; only what was under way when it was held up is late, by no more than that.
    """
    lives: defaultdict[str, list[Span]] = defaultdict(list)
    for span in seen:
        lives[span.replica_id].append(span)
    return [
        f"{bill.replica_id} is billed from {bill.begin} to {bill.end}, and was seen to serve "
        f"{', '.join(f'from {one.begin} to {one.end}' for one in lives[bill.replica_id])}"
        for bill in bills
        if bill.replica_id in lives
        and not any(_covers(one, bill, disturbed) for one in lives[bill.replica_id])
    ]


def _covers(seen: Span, bill: Span, disturbed: Sequence[Interval]) -> bool:
    if bill.begin < seen.begin - _EXACT:
        return False
    if seen.end is None:
        return True
    if bill.end is None:
        return False
    late = bill.end - seen.end
    for begin, end in disturbed:
        late -= max(timedelta(), min(end, bill.end) - max(begin, seen.end))
    return late <= _EXACT


def _lives(events: Iterable[Event]) -> dict[str, list[_Moment]]:
    lives: defaultdict[str, list[_Moment]] = defaultdict(list)
    for event in events:
        message = unpacked(event)
        if isinstance(message, _OF_REPLICAS):
            at = message.effective_at.ToDatetime(UTC)
            lives[message.replica_id].append((type(message), at))
    return dict(lives)


def _billed(replica_id: str, moments: Sequence[_Moment]) -> Iterator[Span]:
    begun: datetime | None = None
    for kind, at in moments:
        if kind in _BEGINS and begun is None:
            begun = at
        elif kind in _ENDS and begun is not None:
            yield Span(replica_id, begun, at)
            begun = None
    if begun is not None:
        yield Span(replica_id, begun, None)


def _wrong(replica_id: str, moments: Sequence[_Moment]) -> Iterator[str]:
    for (before, earlier), (after, later) in pairwise(moments):
        if later < earlier:
            yield f"{after.__name__} at {later}, before {before.__name__} at {earlier}"
    starting = [at for kind, at in moments if kind in _BEFORE]
    leaving = [at for kind, at in moments if kind is scheduler.ReplicaDraining or kind in _AFTER]
    for span in _billed(replica_id, moments):
        if starting and span.begin < max(starting):
            yield f"billed from {span.begin}, and still starting at {max(starting)}"
        if leaving and (span.end is None or span.end > min(leaving)):
            yield f"billed until {span.end}, and already leaving at {min(leaving)}"
