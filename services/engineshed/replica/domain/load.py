"""How many requests there are, and how long they have been there altogether."""

from dataclasses import dataclass
from typing import Final

_SECOND: Final = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Load:
    """Requests over time. Moments are nanoseconds of one clock that never goes back.

    Whole numbers: a sum of so many short times as there are requests stays exact.
    """

    since: int
    """When a request came or went last; at first, when the counting began."""
    in_flight: int = 0
    """How many there are since then."""
    request_ns: int = 0
    """How long all of them together had been in flight until then."""

    def after(self, change: int, now: int) -> "Load":
        """Return the load once `change` requests have come, or gone if it is negative."""
        return Load(now, self.in_flight + change, self._request_ns_until(now))

    def seconds(self, now: int) -> float:
        """Return how long all requests so far have been in flight together."""
        return self._request_ns_until(now) / _SECOND

    def idle_seconds(self, now: int) -> float:
        """Return for how long there has been none; 0 while there are some."""
        return 0.0 if self.in_flight else (now - self.since) / _SECOND

    def _request_ns_until(self, now: int) -> int:
        return self.request_ns + self.in_flight * (now - self.since)
