"""Which failed requests were promised to succeed.

A request to a running endpoint is promised while only parts of the control plane are struck, and
while the endpoint is scaled, updated or moved. A fault of what carries it, its gateway or its
replica, excuses its failure; and excuses later ones until the first success of a request that was
sent after the fault was over. So nothing depends on how long anything takes to come back; that it
does is looked at in the end. An endpoint that its owner stops refuses requests, and that is
excused; one that it has accepted it must finish. A gateway that is cut off from the broker knows
those replicas that were ready when it last heard: as long as one of them is, it must serve.
"""

import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

Way = tuple[str, str]  # gateway, endpoint


@dataclass(frozen=True, slots=True)
class Problem:
    """What was wrong with an answer."""

    text: str
    refused: bool = False  # the request was refused before anything of an answer came


@dataclass(slots=True)
class Excuse:
    """A fault of what carries requests."""

    gateway: str | None  # None: all of them
    endpoint: str | None
    refusals_only: bool
    known: frozenset[str]  # the replicas of a gateway that is cut off; it serves by any of them
    over_at: float | None = None
    healed: set[Way] = field(default_factory=set)

    def holds_for(self, way: Way) -> bool:
        """Tell whether requests of this way may fail."""
        struck = self.gateway in (None, way[0]) and self.endpoint in (None, way[1])
        return struck and way not in self.healed

    def covers(self, problem: Problem, ready: Collection[str]) -> bool:
        """Tell whether it excuses a problem, when these replicas are ready."""
        if self.refusals_only and not problem.refused:
            return False
        return self.known.isdisjoint(ready)


class Promise:
    """Counts requests, and judges those that failed."""

    def __init__(self) -> None:
        self.succeeded = 0
        self.excused = 0
        self.broken: list[str] = []  # failures of what was promised
        self._excuses: list[Excuse] = []

    @property
    def sent(self) -> int:
        """How many requests have ended one way or another."""
        return self.succeeded + self.excused + len(self.broken)

    def excuse(
        self,
        *,
        gateway: str | None = None,
        endpoint: str | None = None,
        refusals_only: bool = False,
        known: Collection[str] = (),
    ) -> Excuse:
        """Begin an excuse; set its `over_at` when the fault is over."""
        excuse = Excuse(gateway, endpoint, refusals_only, frozenset(known))
        self._excuses.append(excuse)
        return excuse

    @contextmanager
    def excusing(
        self,
        *,
        gateway: str | None = None,
        endpoint: str | None = None,
        refusals_only: bool = False,
    ) -> Iterator[None]:
        """Excuse what fails in the block, and after it until the first success."""
        excuse = self.excuse(gateway=gateway, endpoint=endpoint, refusals_only=refusals_only)
        try:
            yield
        finally:
            excuse.over_at = time.monotonic()

    def begin(self, way: Way) -> list[Excuse]:
        """Return the excuses of a request that is sent now; pass it to `failure`."""
        return [excuse for excuse in self._excuses if excuse.holds_for(way)]

    def success(self, way: Way, sent_at: float) -> None:
        """Note that a request succeeded."""
        self.succeeded += 1
        for excuse in self._excuses:
            if excuse.over_at is not None and sent_at > excuse.over_at:
                excuse.healed.add(way)

    def failure(
        self, way: Way, before: list[Excuse], problem: Problem, ready: Collection[str] = ()
    ) -> bool:
        """Note that a request failed; tell whether that was a broken promise.

        `ready` are the replicas of its endpoint that are ready now.
        """
        if any(excuse.covers(problem, ready) for excuse in (*before, *self.begin(way))):
            self.excused += 1
            return False
        self.broken.append(problem.text)
        return True
