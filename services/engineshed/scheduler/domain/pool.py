"""Pool: the heard nodes of one kind, ordered by how many of their GPUs are free.

It answers "which nodes have at least n GPUs free, fullest first?" without looking at the others,
and copying one is cheap, so that a plan can try placements without touching the view.
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

    def __contains__(self, node_id: str) -> bool:
        return node_id in self._free

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

    def take(self, node_id: str, count: int) -> tuple[int, ...]:
        """Take GPUs of a node and return them: those with the lowest indexes."""
        free = self._free[node_id]
        assert len(free) >= count, f"{node_id} has {len(free)} GPUs free, not {count}"
        self.put(node_id, free[count:])
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

    def copy(self) -> "Pool":
        """Return a pool that can be changed without changing this one."""
        twin = Pool()
        twin._free = dict(self._free)
        twin._by_count = {free: list(nodes) for free, nodes in self._by_count.items()}
        return twin
