"""Which replica gets a request: the one with the least in flight."""

import random
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager

from engineshed.api.scheduler.v1.route_pb2 import Route, RouteReplica


class Balancer:
    """Counts what this gateway has in flight at each replica, and chooses by it."""

    def __init__(self) -> None:
        self._in_flight: Counter[str] = Counter()

    def in_flight(self, replica_id: str) -> int:
        """Return how many requests this gateway has at the replica now."""
        return self._in_flight[replica_id]

    def choose(self, route: Route, tried: Collection[str]) -> RouteReplica | None:
        """Return the least busy replica that was not tried; None: there is none left."""
        left = [replica for replica in route.replicas if replica.replica_id not in tried]
        if len(left) < 2:
            return left[0] if left else None
        return min(left, key=lambda item: (self._in_flight[item.replica_id], random.random()))  # noqa: S311 - a tie, no secret

    @contextmanager
    def occupying(self, replica_id: str) -> Iterator[None]:
        """Count a request for the time of the block, however it ends."""
        self._in_flight[replica_id] += 1
        try:
            yield
        finally:
            self._in_flight[replica_id] -= 1
            if not self._in_flight[replica_id]:
                del self._in_flight[replica_id]  # replicas come and go; the counter must not grow
