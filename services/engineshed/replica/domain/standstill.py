"""Whether an engine that has work to do still does any, told by a counter of its iterations."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Standstill:
    """What was seen of an engine since it had work last and sent nothing.

    Rounds are of a watch that looks now and then. The counter need not be read in each of them: it
    only grows, so if it is the same after a while, it has not moved meanwhile.
    """

    rounds: int = 0
    """In which it had work, and sent nothing."""
    counter: float | None = None
    """How far its iterations had come; None: it does not say."""
    since: int = 0
    """The round in which the counter was seen to be there first."""

    def after_round(self, *, waiting: bool) -> "Standstill":
        """Return what is known after one more round, in which it was waited for, or was not."""
        return Standstill(self.rounds + 1, self.counter, self.since) if waiting else Standstill()

    def wants_counter(self, patience: int) -> bool:
        """Tell whether to read the counter now: at the beginning, and when patience ends."""
        return self.rounds == 1 or (self.rounds > 0 and self.rounds - self.since >= patience)

    def with_counter(self, counter: float | None) -> "Standstill":
        """Return what is known once the counter was read."""
        if counter is not None and counter == self.counter:
            return self
        return Standstill(self.rounds, counter, self.rounds)

    def is_dead(self, patience: int) -> bool:
        """Tell whether the counter was there and has not moved for so many rounds."""
        return self.counter is not None and self.rounds - self.since >= patience
