"""Room: the free GPUs for one queue while a plan is made, and what is kept of them.

The head of a queue that does not fit nominates a node. There, others may take only what the head
will not need: the GPUs that are free now or soon, less its own.
"""

from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from heapq import merge

from engineshed.scheduler.domain.pool import Draft, Kind, Pool


@dataclass(frozen=True, slots=True)
class Nomination:
    """The node that is kept for the head of the queue."""

    node_id: str
    gpu_count: int  # what the head needs
    soon: int  # GPUs on it that are being released


class Room:
    """Free GPUs of one queue; a plan takes from it, the view keeps its own."""

    def __init__(self, pools: Sequence[tuple[Kind, Pool]], cordoned: int = 0) -> None:
        self._pools = [(frozenset(kind.backends), pool.draft()) for kind, pool in pools]
        self.cordoned = cordoned  # nodes that are heard and take no replicas
        self._kept: Nomination | None = None

    @property
    def nomination(self) -> Nomination | None:
        """The node that is kept, if one is."""
        return self._kept

    def keep(self, nomination: Nomination) -> None:
        """Keep a node for the head of the queue from now on."""
        self._kept = nomination

    def free(self, node_id: str) -> int:
        """Return how many GPUs of a node are free; 0 for one that is not heard."""
        for _, pool in self._pools:
            if node_id in pool:
                return len(pool.free(node_id))
        return 0

    def take(self, node_id: str, gpu_count: int) -> tuple[int, ...]:
        """Take GPUs of a node and return their indexes."""
        pool = next(pool for _, pool in self._pools if node_id in pool)
        return pool.take(node_id, gpu_count)

    def fits(self, node_id: str, gpu_count: int, backends: Set[str]) -> bool:
        """Tell whether a replica fits on a node now."""
        return any(node_id in pool for pool in self._able(backends)) and (
            gpu_count <= self._usable(node_id)
        )

    def fitting(self, gpu_count: int, backends: Set[str]) -> Iterator[str]:
        """Yield the nodes on which a replica fits now: fewest GPUs left over first, then by id."""
        pools = (pool.fitting(gpu_count) for pool in self._able(backends))
        for node_id in merge(*pools, key=lambda node_id: (self.free(node_id), node_id)):
            if self._kept is None or gpu_count <= self._usable(node_id):
                yield node_id

    def emptiest(self, backends: Set[str]) -> Iterator[str]:
        """Yield the nodes that could serve: most GPUs free first, then by id."""
        pools = (pool.emptiest() for pool in self._able(backends))
        return merge(*pools, key=lambda node_id: (-self.free(node_id), node_id))

    def count(self, backends: Set[str] | None = None, gpu_count: int = 0) -> int:
        """Return how many nodes are heard, have one of `backends` and so many GPUs free."""
        pools = [pool for _, pool in self._pools] if backends is None else self._able(backends)
        return sum(pool.count_fitting(gpu_count) for pool in pools)

    def _able(self, backends: Set[str]) -> list[Draft]:
        return [pool for own, pool in self._pools if not own.isdisjoint(backends)]

    def _usable(self, node_id: str) -> int:
        """Return how many free GPUs of a node others than the head may take."""
        free = self.free(node_id)
        kept = self._kept
        if kept is None or kept.node_id != node_id:
            return free
        return max(0, min(free, free + kept.soon - kept.gpu_count))
