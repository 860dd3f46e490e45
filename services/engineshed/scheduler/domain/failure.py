"""What follows from replicas that fail: how long to wait, and when to give up."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

# An operator took the host out while the replica was on it.
NODE_REMOVED: Final = "NODE_REMOVED"

# The host or the whole stack was stopped: the replica did nothing wrong.
HOST_CODES: Final = frozenset({"NODE_RESTARTED", "STOPPED_BY_HOST", NODE_REMOVED})

CRASH_LOOP: Final = "CRASH_LOOP"
CRASHES: Final = 3  # so many tries in a row are a loop …
CRASH_WINDOW: Final = timedelta(minutes=10)  # … when they come within this time
STEADY_AFTER: Final = timedelta(minutes=1)  # ready for so long: what failed before is forgotten

_FIRST_PAUSE: Final = timedelta(seconds=1)
_LONGEST_PAUSE: Final = timedelta(seconds=60)
_KEPT: Final = 10  # tries; more add nothing: the pause is at its longest by then


@dataclass(frozen=True, slots=True)
class Failure:
    """One replica that ended by itself."""

    placed_at: datetime
    at: datetime
    node_id: str
    code: str
    reason: str
    early: bool  # before it had been ready for STEADY_AFTER

    @property
    def summary(self) -> str:
        """Code and reason on one line; what follows the first of the reason is a log."""
        return f"{self.code}: {self.reason}".partition("\n")[0]


def is_early(ready_at: datetime | None, failed_at: datetime) -> bool:
    """Tell whether a replica failed before it had proved itself."""
    return ready_at is None or failed_at - ready_at < STEADY_AFTER


def row_after(row: Sequence[Failure], failure: Failure) -> tuple[Failure, ...]:
    """Return the failures in a row once `failure` has followed them."""
    if failure.code in HOST_CODES:
        return tuple(row)
    before = row if failure.early else ()
    after = (*before, failure)
    return after[after.index(_tries(after)[-_KEPT:][0]) :]


def retry_at(row: Sequence[Failure]) -> datetime | None:
    """Return when the next try is due; None: at once.

    What had proved itself is replaced at once; only what fails again has to pause.
    """
    if not any(failure.early for failure in row):
        return None
    return row[-1].at + min(_LONGEST_PAUSE, _FIRST_PAUSE * (1 << (len(_tries(row)) - 1)))


def is_crash_loop(row: Sequence[Failure]) -> bool:
    """Tell whether the last failures came too fast for another try."""
    crashes = _tries([failure for failure in row if failure.early])[-CRASHES:]
    return len(crashes) == CRASHES and crashes[-1].at - crashes[0].at <= CRASH_WINDOW


def _tries(row: Sequence[Failure]) -> list[Failure]:
    """Return the first failure of each try.

    Replicas that were there together are one try: after what ended them all at once, such as a
    host without memory, nothing has been tried again yet.
    """
    tries: list[Failure] = []
    for failure in row:
        if not tries or failure.placed_at > tries[-1].at:
            tries.append(failure)
    return tries
