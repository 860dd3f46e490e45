"""Which engines make room, when there is too little of it.

Pure: what there is and how much is missing comes from `room`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CachedEngine:
    """An engine in the cache, as far as room is concerned."""

    key: str
    size: int
    """What its files come to, in bytes."""
    frees: int
    """What the disk gets back when it goes: less than its size where it shares files."""
    used_at: float
    """When it was last used; only the order matters."""
    in_use: bool
    """It serves, or somebody is about to use it: it stays, whatever happens."""


@dataclass(frozen=True, slots=True)
class Shortage:
    """What is too much or missing, in bytes; zero or less: nothing is."""

    over_limit: int
    """By how much the engines' sizes exceed what they may come to."""
    lacking_on_disk: int
    """How much more of the disk must be free."""

    @property
    def exists(self) -> bool:
        """Whether anything must go."""
        return self.over_limit > 0 or self.lacking_on_disk > 0

    def without(self, engine: CachedEngine) -> "Shortage":
        """Return what is left of it once `engine` is gone."""
        return Shortage(self.over_limit - engine.size, self.lacking_on_disk - engine.frees)


def to_evict(engines: Iterable[CachedEngine], shortage: Shortage) -> Sequence[CachedEngine]:
    """Return the engines that must go, the least recently used first, and no more than needed.

    Engines in use are never among them, and none that would not help. So it may not be enough.
    """
    evicted = []
    idle = (engine for engine in engines if not engine.in_use)
    for engine in sorted(idle, key=lambda engine: (engine.used_at, engine.key)):
        if not shortage.exists:
            break
        helps = engine.size if shortage.over_limit > 0 else engine.frees
        if helps > 0:
            evicted.append(engine)
            shortage = shortage.without(engine)
    return evicted
