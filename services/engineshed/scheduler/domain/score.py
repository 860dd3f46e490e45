"""Which node is best for a replica, among those that fit.

Packing comes first to mind, because it keeps whole nodes free for large replicas; but an endpoint
whose replicas share a node dies with that node, and a node on which it has just failed may fail
it again. So a node is worse by each GPU left over, far worse by each replica of the same endpoint
on it, and worst by each recent failure there.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Final

from engineshed.scheduler.domain.backends import fitting
from engineshed.scheduler.domain.endpoint import Endpoint
from engineshed.scheduler.domain.room import Room

SHOWN: Final = 5  # candidates in a decision's why


@dataclass(frozen=True, slots=True)
class Policy:
    """The weights of a choice, and what load should be; `version` names them in every decision."""

    version: str = "pack-spread-reclaim-1"
    per_gpu_left_over: float = 1.0
    per_own_replica: float = 1_000.0
    per_failure: float = 10_000.0
    target: float = 8.0  # requests in flight of each replica, on average


@dataclass(frozen=True, slots=True)
class Candidate:
    """A node that would fit."""

    node_id: str
    score: float  # higher is better


class Preferences:
    """What one endpoint needs of nodes and has against them; its new placements add to it."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.gpu_count = endpoint.placing.gpu_count
        self.backends = fitting(endpoint.placing.serving)
        self._own = Counter(replica.node_id for replica in endpoint.occupying())
        self._failures = Counter(failure.node_id for failure in endpoint.failures)

    @property
    def marked(self) -> Iterable[str]:
        """The nodes that are worse than their room tells."""
        return self._own.keys() | self._failures.keys()

    def place(self, node_id: str) -> None:
        """Note another replica of the endpoint on a node."""
        self._own[node_id] += 1

    def against(self, node_id: str, policy: Policy) -> float:
        """Return how much worse a node is than its room tells."""
        return (
            policy.per_own_replica * self._own[node_id]
            + policy.per_failure * self._failures[node_id]
        )


def best(preferences: Preferences, room: Room, policy: Policy) -> list[Candidate]:
    """Return the best nodes, best first; none when no node fits.

    Exact, without looking at all nodes: of those that nothing speaks against, the fullest are the
    best, and the pools yield them in that order.
    """
    gpu_count, backends = preferences.gpu_count, preferences.backends

    def candidate(node_id: str) -> Candidate:
        left_over = room.free(node_id) - gpu_count
        score = -policy.per_gpu_left_over * left_over - preferences.against(node_id, policy)
        return Candidate(node_id, score)

    marked = {one for one in preferences.marked if room.fits(one, gpu_count, backends)}
    unmarked = (one for one in room.fitting(gpu_count, backends) if one not in marked)
    found = [candidate(node_id) for node_id in (*marked, *islice(unmarked, SHOWN))]
    return sorted(found, key=lambda one: (-one.score, one.node_id))[:SHOWN]
