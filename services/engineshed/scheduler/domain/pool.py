"""Pool: the heard nodes of one kind, ordered by how many of their GPUs are free.

It answers "which nodes have at least n GPUs free, fullest first?" without looking at the others.
A draft of one costs little, whatever the pool's size, so that a plan can try placements without
touching the view.
"""

from bisect import bisect_left, insort
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class Kind:
    """What makes nodes interchangeable."""

    region: str
    gpu_type: str
    backends: tuple[str, ...]  # in order


class Pool:
    """Nodes of one kind with their free GPUs."""

    def __init__(self) -> None:
        self._free: dict[str, tuple[int, ...]] = {}  # free GPUs by node, ascending
        self._by_count: dict[int, list[str]] = {}  # nodes by how many are free, ascending

    def __len__(self) -> int:
        return len(self._free)

    def free(self, node_id: str) -> tuple[int, ...]:
        """Return the free GPUs of a node of this pool, ascending."""
        return self._free[node_id]

    def put(self, node_id: str, free: tuple[int, ...]) -> None:
        """Add a node, or say anew which of its GPUs are free."""
        self.discard(node_id)
        self._free[node_id] = free
        insort(self._by_count.setdefault(len(free), []), node_id)

    def discard(self, node_id: str) -> None:
        """Take a node out, if it is there."""
        free = self._free.pop(node_id, None)
        if free is None:
            return
        nodes = self._by_count[len(free)]
        del nodes[bisect_left(nodes, node_id)]
        if not nodes:
            del self._by_count[len(free)]

    def draft(self) -> "Draft":
        """Return a draft of this pool, which holds until the pool changes."""
        return Draft(self._free, self._by_count)


class Draft:
    """A pool from which GPUs are taken; the pool itself keeps them.

    Only what becomes different is copied.
    """

    def __init__(self, free: dict[str, tuple[int, ...]], by_count: dict[int, list[str]]) -> None:
        self._pool = free
        self._left: dict[str, tuple[int, ...]] = {}  # of nodes from which GPUs were taken
        self._by_count = dict(by_count)  # with the pool's own lists, but for these counts:
        self._copied: set[int] = set()

    def __contains__(self, node_id: str) -> bool:
        return node_id in self._pool

    def free(self, node_id: str) -> tuple[int, ...]:
        """Return the free GPUs of a node of this pool, ascending."""
        left = self._left.get(node_id)
        return self._pool[node_id] if left is None else left

    def take(self, node_id: str, count: int) -> tuple[int, ...]:
        """Take GPUs of a node and return them: those with the lowest indexes."""
        free = self.free(node_id)
        assert len(free) >= count, f"{node_id} has {len(free)} GPUs free, not {count}"
        left = self._left[node_id] = free[count:]
        nodes = self._nodes(len(free))
        del nodes[bisect_left(nodes, node_id)]
        insort(self._nodes(len(left)), node_id)
        return free[:count]

    def fitting(self, count: int) -> Iterator[str]:
        """Yield the nodes with at least `count` GPUs free: fewest left over first, then by id."""
        for free in sorted(free for free in self._by_count if free >= count):
            yield from self._by_count[free]

    def emptiest(self) -> Iterator[str]:
        """Yield all nodes: most GPUs free first, then by id."""
        for free in sorted(self._by_count, reverse=True):
            yield from self._by_count[free]

    def count_fitting(self, count: int) -> int:
        """Return how many nodes have at least `count` GPUs free."""
        return sum(len(nodes) for free, nodes in self._by_count.items() if free >= count)

    def _nodes(self, free: int) -> list[str]:
        """Return the draft's own list of nodes with so many GPUs free."""
        if free not in self._copied:
            self._copied.add(free)
            self._by_count[free] = self._by_count.get(free, []).copy()
        return self._by_count[free]
