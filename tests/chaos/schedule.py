"""Which faults strike when: drawn from a seed, before anything starts.

Every pair of a part and a kind of fault is a card. The cards are shuffled and dealt, and shuffled
again when all are dealt, so that a long run strikes everywhere and a short one here and there.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Kind(StrEnum):
    """What happens to a victim."""

    KILL = "kill -9"  # and start again
    PAUSE = "SIGSTOP"  # and SIGCONT
    WIPE = "kill -9, store wiped"
    CUT = "connections cut"
    SPLIT = "connection cut in a message"
    HANG = "connection swallows all"
    BLACKOUT = "kill -9 of all of it"  # the control plane, or a host with its replicas
    FULL = "disk full"
    PULL = "cable pulled"  # packets get lost, both ways


# How long a fault lasts, in seconds; the longest pauses outlast every deadline and lease.
_LASTS: Final[dict[Kind, Sequence[float]]] = {
    Kind.KILL: (0, 0.5, 3),
    Kind.PAUSE: (3, 7, 14, 25),
    Kind.WIPE: (0, 2),
    Kind.CUT: (0,),
    Kind.SPLIT: (0,),
    Kind.HANG: (3, 12, 20),  # the lease of a host is 10 s
    Kind.BLACKOUT: (2, 6, 14),
    Kind.FULL: (4, 10),
    Kind.PULL: (3, 12, 20),
}

_FIRST: Final = (1.0, 2.0)  # seconds, between these
BETWEEN: Final = 2.2  # on average
_REST: Final = 3.0  # seconds from the end of a fault to the victim's next one


@dataclass(frozen=True, slots=True)
class Victim:
    """What can be struck, and how."""

    name: str
    kinds: Sequence[Kind]
    parts: frozenset[str] = frozenset()  # that it consists of, beside itself
    rest: float = _REST


@dataclass(frozen=True, slots=True)
class Fault:
    """One of them."""

    at: float  # seconds from the beginning
    victim: str
    kind: Kind
    lasts: float

    @property
    def ends(self) -> float:
        """When it is over, in seconds from the beginning."""
        return self.at + self.lasts


def schedule(
    seed: int, seconds: float, victims: Sequence[Victim], between: float = BETWEEN
) -> list[Fault]:
    """Return the faults of a run of so many seconds, in their order; all end in it.

    From one to the next it is `between` seconds on average.
    """
    chance = random.Random(seed)
    faults: list[Fault] = []
    free_at: dict[str, float] = {}
    cards = _dealt(chance, victims)
    waiting: list[tuple[Victim, Kind]] = []  # dealt while their victim was busy
    now = chance.uniform(*_FIRST)
    while now < seconds:
        waiting.append(next(cards))
        for card in waiting:
            victim, kind = card
            busy = {victim.name, *victim.parts}
            lasts = chance.choice([one for one in _LASTS[kind] if one <= max(3, seconds / 4)])
            if now + lasts <= seconds and all(free_at.get(one, 0) <= now for one in busy):
                faults.append(Fault(round(now, 2), victim.name, kind, lasts))
                free_at |= dict.fromkeys(busy, now + lasts + victim.rest)
                waiting.remove(card)
                break
        now += chance.uniform(0.2 * between, 1.8 * between)
    return faults


def _dealt(chance: random.Random, victims: Sequence[Victim]) -> Iterator[tuple[Victim, Kind]]:
    cards = [(victim, kind) for victim in victims for kind in victim.kinds]
    while True:
        chance.shuffle(cards)
        yield from list(cards)
