"""Whether a program still does something, from what is seen of it now and then. Pure."""

from dataclasses import dataclass
from typing import Final

_IDLE: Final = 0.02
"""A program that computes for less of the time than this share does nothing: it waits and wakes."""
_SPINNING: Final = 4
"""How many times as long a program may compute without a word or a byte written."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What is seen of a program with all that it started, at one moment."""

    at: float
    """In seconds, of a clock that never goes back."""
    log_bytes: int
    """The length of its log."""
    written_bytes: int
    """What the files come to that it makes."""
    cpu_seconds: float
    """What its live processes have computed, with children of theirs that have ended."""


class Watch:
    """Tells from samples that a program stands still."""

    def __init__(self, start: Sample, stall_seconds: float) -> None:
        """Begin.

        Args:
            start: what was seen first.
            stall_seconds: how long it may neither log nor write nor compute.

        """
        self._last = start
        self._stall_seconds = stall_seconds
        self._heard = start.at
        self._alive = start.at

    def see(self, sample: Sample) -> str:
        """Take the next sample; return in words why the program stands still, "" if it does not."""
        last, self._last = self._last, sample
        spoke = (sample.log_bytes, sample.written_bytes) != (last.log_bytes, last.written_bytes)
        computed = sample.cpu_seconds - last.cpu_seconds
        if spoke:
            self._heard = self._alive = sample.at
        elif computed > _IDLE * (sample.at - last.at):
            self._alive = sample.at
        idle, silent = sample.at - self._alive, sample.at - self._heard
        if idle >= self._stall_seconds:
            return f"it neither logged nor wrote nor computed anything for {idle:.0f} s"
        if silent >= _SPINNING * self._stall_seconds:
            return f"it computed for {silent:.0f} s without a word and without writing anything"
        return ""


def share(done: int, expected: int) -> float:
    """Return how much of what is expected is there, below 1 until it has ended."""
    return min(done / expected, 0.99) if expected else 0.0
