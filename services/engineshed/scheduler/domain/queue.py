"""Queue: the endpoints that wait for GPUs of one type in one region, in order of arrival.

Most of a long queue is alike: it is kept by crowd, so that a plan that has no room for one of a
crowd passes over all of it without a look at each.
"""

from bisect import bisect_left, insort
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from heapq import heapify, heappop, heapreplace
from typing import NamedTuple

from engineshed.scheduler.domain.backends import fitting
from engineshed.scheduler.domain.consequences import waits
from engineshed.scheduler.domain.endpoint import Endpoint, EndpointState


class Crowd(NamedTuple):
    """Endpoints that need the same and were told the same."""

    backends: frozenset[str]
    gpu_count: int
    told: str | None  # what it waits for; None: it has replicas, so nobody has to tell it


class Place(NamedTuple):
    """A place in a queue; the lowest is the first."""

    arrived_at: datetime
    endpoint_id: str


@dataclass(slots=True)
class Queue:
    """Who waits, and in what order."""

    _crowds: dict[Crowd, list[Place]] = field(default_factory=dict)  # each in order

    def __bool__(self) -> bool:
        return bool(self._crowds)

    def put(self, crowd: Crowd, place: Place) -> None:
        """Let somebody stand in the queue who does not yet."""
        insort(self._crowds.setdefault(crowd, []), place)

    def discard(self, crowd: Crowd, place: Place) -> None:
        """Take somebody out who stands in it."""
        places = self._crowds[crowd]
        del places[bisect_left(places, place)]
        if not places:
            del self._crowds[crowd]

    def position(self, place: Place) -> int:
        """Return how manyeth a place is, from 1; 0 when nobody has it."""
        before, taken = 0, False
        for places in self._crowds.values():
            index = bisect_left(places, place)
            before += index
            taken = taken or places[index : index + 1] == [place]
        return before + 1 if taken else 0

    def in_order(self, hopeless: Callable[[Crowd], bool]) -> Iterator[str]:
        """Yield endpoints in order of arrival, and of a crowd none once it is hopeless."""
        heads = [(places[0], 0, crowd) for crowd, places in self._crowds.items()]
        heapify(heads)
        while heads:
            place, index, crowd = heads[0]
            if hopeless(crowd):
                heappop(heads)
                continue
            yield place.endpoint_id
            places = self._crowds[crowd]
            if index + 1 < len(places):
                heapreplace(heads, (places[index + 1], index + 1, crowd))
            else:
                heappop(heads)


def crowd_of(endpoint: Endpoint) -> Crowd:
    """Return the crowd of an endpoint that misses replicas."""
    placing, status = endpoint.placing, endpoint.status
    told = None
    if waits(endpoint):
        told = status.reason if status.state is EndpointState.QUEUED else ""
    return Crowd(fitting(placing.serving), placing.gpu_count, told)


def place_of(endpoint: Endpoint) -> Place:
    """Return the place of an endpoint in its queue."""
    return Place(endpoint.arrived_at, endpoint.endpoint_id)
