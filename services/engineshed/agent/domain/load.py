"""What a front's answers tell of its requests at the moments in between."""

from dataclasses import dataclass
from typing import Final

STALE_SECONDS: Final = 3.0
"""An answer that is older tells nothing of the present: since then, questions stay unanswered."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a front said of its requests."""

    at: float
    """When it said so, in seconds of a clock that never goes back."""
    in_flight_seconds: float
    """How long all its requests together had been in flight."""
    idle_seconds: float | None
    """Since when it had none, or was ready; 0 while it had some. None: it was never ready."""
    busy: bool
    """Whether it had some."""


@dataclass(frozen=True, slots=True)
class FrontLoad:
    """The last two answers of a front."""

    before: Answer
    last: Answer

    def after(self, answer: Answer) -> "FrontLoad":
        """Return what is known once `answer` has come."""
        return FrontLoad(self.last, answer)

    def in_flight_seconds(self, now: float) -> float:
        """Return how long all requests had been in flight, as it was one question earlier.

        That is between two answers, where it is known, and always as long ago: so what it grows
        between two moments is right, whenever between questions they are, and it never shrinks.
        """
        before, last = self.before, self.last
        if last.at == before.at:
            return last.in_flight_seconds
        part = (now - last.at) / (last.at - before.at)
        grown = part * (last.in_flight_seconds - before.in_flight_seconds)
        return min(before.in_flight_seconds + grown, last.in_flight_seconds)

    def idle_seconds(self, now: float) -> float | None:
        """Return since when there is no request, 0 if there are some; None: it cannot be told."""
        since, idle = now - self.last.at, self.last.idle_seconds
        if idle is None or since > STALE_SECONDS:
            return None
        return 0.0 if self.last.busy else idle + since
