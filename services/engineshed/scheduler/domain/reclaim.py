"""Making room for reserved replicas: opportunistic ones of other endpoints go, when idle enough.

They are drained, not killed, so the room comes a little later. Whoever waits first speaks for it.
"""

from collections import Counter
from collections.abc import Set
from dataclasses import dataclass

from engineshed.scheduler.domain.endpoint import Endpoint
from engineshed.scheduler.domain.replica import Replica
from engineshed.scheduler.domain.room import Room
from engineshed.scheduler.domain.score import Preferences
from engineshed.scheduler.domain.view import QueueKey, View


@dataclass(frozen=True, slots=True)
class Reclaim:
    """Drain opportunistic replicas of an endpoint."""

    endpoint_id: str
    replica_ids: tuple[str, ...]


class Reclaiming:
    """What may be reclaimed for one queue while a plan is made, and what has been."""

    def __init__(self, view: View, key: QueueKey, idle: Set[str]) -> None:
        self._view = view
        self._spoken_for: Counter[str] = Counter()  # GPUs by node, of those that will be free
        self._reclaimed: Counter[str] = Counter()  # GPUs by node
        self._idle: dict[str, list[tuple[str, Replica]]] = {}  # by node, with their endpoints
        if idle:
            for endpoint, replica in view.opportunistic(key):
                if replica.replica_id in idle:
                    held = (endpoint.endpoint_id, replica)
                    self._idle.setdefault(replica.node_id, []).append(held)

    @property
    def nodes(self) -> Set[str]:
        """The nodes on which something is to drain now."""
        return self._reclaimed.keys()

    def releasing(self, node_id: str) -> int:
        """Return how many GPUs of a node will be released, by what drains or is to drain now."""
        return self._view.releasing(node_id) + self._reclaimed[node_id]

    def make_room(self, endpoint: Endpoint, preferences: Preferences, room: Room) -> list[Reclaim]:
        """Return what has to go for one reserved replica; nothing when nothing helps or need be."""
        gpu_count = preferences.gpu_count
        if not self._idle:
            return []
        for node_id in sorted(self._view.releasing_nodes | self.nodes):
            if self._coming(node_id, preferences, room) >= gpu_count:
                self._spoken_for[node_id] += gpu_count
                return []
        choices = [
            (sum(len(replica.gpus) for _, replica in taken), node_id, taken)
            for node_id in self._idle
            if (taken := self._enough(node_id, endpoint, preferences, room))
        ]
        if not choices:
            return []
        gpus, node_id, taken = min(choices, key=lambda choice: choice[:2])
        self._reclaimed[node_id] += gpus
        self._spoken_for[node_id] += gpu_count
        gone = {replica.replica_id for _, replica in taken}
        left = [one for one in self._idle.pop(node_id) if one[1].replica_id not in gone]
        if left:
            self._idle[node_id] = left
        return [Reclaim(endpoint_id, (replica.replica_id,)) for endpoint_id, replica in taken]

    def _coming(self, node_id: str, preferences: Preferences, room: Room) -> int:
        """Return how many GPUs of a node are free or will be, and nobody has spoken for."""
        if not room.fits(node_id, 0, preferences.backends):
            return -1
        soon = room.free(node_id) + self.releasing(node_id)
        return max(0, soon - self._spoken_for[node_id])

    def _enough(
        self, node_id: str, endpoint: Endpoint, preferences: Preferences, room: Room
    ) -> list[tuple[str, Replica]]:
        """Return the fewest GPUs' worth of replicas on a node whose end makes enough room."""
        missing = preferences.gpu_count - self._coming(node_id, preferences, room)
        if missing > preferences.gpu_count:
            return []  # it cannot serve it
        others = [one for one in self._idle[node_id] if one[0] != endpoint.endpoint_id]
        taken: list[tuple[str, Replica]] = []
        for one in sorted(others, key=lambda one: (-len(one[1].gpus), one[1].replica_id)):
            if missing <= 0:
                break
            taken.append(one)
            missing -= len(one[1].gpus)
        return taken if missing <= 0 else []
