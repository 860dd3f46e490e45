"""What replicas have said of their requests, for as long as decisions look back.

Whoever has not said it for a while may have any load: then nothing is known of the whole endpoint,
and once it is known again both windows begin anew.
"""

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from operator import ge, le
from typing import Final

from engineshed.scheduler.domain.endpoint import Endpoint
from engineshed.scheduler.domain.load import Load
from engineshed.scheduler.domain.replica import Replica

# Shorter intervals are too short for an average: agents ask fronts once a second.
_SHORTEST: Final = timedelta(seconds=1.5)


@dataclass(frozen=True, slots=True)
class Windows:
    """How far decisions look back."""

    up: timedelta = timedelta(seconds=15)
    down: timedelta = timedelta(seconds=300)
    reclaim: timedelta = timedelta(seconds=10)  # so long idle: it may be taken
    stale: timedelta = timedelta(seconds=8)  # what was said before does not count


@dataclass(slots=True)
class _Said:
    """What a replica has said."""

    at: datetime
    total: float  # seconds in flight, up to then
    idle_since: datetime | None  # None: it is busy
    average: float | None = None  # requests in flight; None: not known yet
    average_at: datetime | None = None

    def update(self, total: float, idle_since: datetime | None, now: datetime) -> None:
        self.idle_since = idle_since
        elapsed = now - self.at
        if total < self.total or elapsed < timedelta(0):  # it has begun anew, or the clock has
            self.at, self.total, self.average = now, total, None
        elif elapsed >= _SHORTEST:
            self.average = (total - self.total) / elapsed.total_seconds()
            self.at, self.total, self.average_at = now, total, now

    def average_by(self, now: datetime, stale: timedelta) -> float | None:
        """Return the requests in flight; None when that was said too long ago."""
        if self.average is None or self.average_at is None or now - self.average_at > stale:
            return None
        return self.average


class _Extreme:
    """The least or the most of a window that moves; each value is looked at once or twice."""

    def __init__(self, window: timedelta, better: Callable[[float, float], bool]) -> None:
        self._window = window
        self._better = better
        self._values: deque[tuple[datetime, float]] = deque()  # best first, each later than that

    def add(self, now: datetime, value: float) -> None:
        while self._values and self._better(value, self._values[-1][1]):
            self._values.pop()
        self._values.append((now, value))

    def get(self, now: datetime) -> float:
        while len(self._values) > 1 and self._values[0][0] < now - self._window:
            self._values.popleft()
        return self._values[0][1]

    def clear(self) -> None:
        self._values.clear()


@dataclass(slots=True)
class _History:
    """One endpoint's."""

    low: _Extreme
    high: _Extreme
    replicas: dict[str, _Said] = field(default_factory=dict)
    known_since: datetime | None = None
    known_at: datetime | None = None
    in_flight: float = 0.0


class LoadHistory:
    """The loads of all endpoints whose number of replicas follows them."""

    def __init__(self, windows: Windows) -> None:
        self.windows = windows
        self._endpoints: dict[str, _History] = {}

    def note(
        self,
        endpoint: Endpoint,
        replica: Replica,
        in_flight_seconds: float,
        idle_for: timedelta | None,
        now: datetime,
    ) -> None:
        """Note what a ready replica has said.

        Args:
            endpoint: its endpoint; one of a fixed number of replicas is passed over.
            replica: the replica.
            in_flight_seconds: the time that all its requests together have been in flight.
            idle_for: how long it has had none; zero: it has some; None: its front does not say.
            now: the present.

        """
        if not endpoint.elastic:
            self._endpoints.pop(endpoint.endpoint_id, None)
            return
        if idle_for is None or not replica.ready:
            return
        history = self._endpoints.get(endpoint.endpoint_id)
        if history is None:
            history = self._endpoints[endpoint.endpoint_id] = self._new()
        idle_since = now - idle_for if idle_for else None
        said = history.replicas.get(replica.replica_id)
        if said is None:
            history.replicas[replica.replica_id] = _Said(now, in_flight_seconds, idle_since)
        else:
            said.update(in_flight_seconds, idle_since, now)
        self._sum(history, endpoint, now)

    @property
    def endpoint_ids(self) -> frozenset[str]:
        """Of whom anything is kept."""
        return frozenset(self._endpoints)

    def forget(self, endpoint_id: str) -> None:
        """Drop what is kept of an endpoint that runs nothing any more."""
        self._endpoints.pop(endpoint_id, None)

    def load_of(self, endpoint: Endpoint, now: datetime) -> Load | None:
        """Return the load of an endpoint; None when it is not known."""
        history = self._endpoints.get(endpoint.endpoint_id)
        if history is None or history.known_since is None or history.known_at is None:
            return None
        if now - history.known_at > self.windows.stale or not endpoint.ready:
            return None
        covered = now - history.known_since
        return Load(
            in_flight=history.in_flight,
            low=history.low.get(now) if covered >= self.windows.up else 0.0,
            high=history.high.get(now) if covered >= self.windows.down else None,
            idle_for=min(self._idle_for(history, one, now) for one in _ready(endpoint)),
        )

    def idle(self, replicas: Iterable[tuple[str, Replica]], now: datetime) -> set[str]:
        """Return those of the replicas, each with its endpoint's id, that may be reclaimed.

        One that does not serve yet has nothing to finish.
        """
        found: set[str] = set()
        for endpoint_id, replica in replicas:
            history = self._endpoints.get(endpoint_id)
            long = history is not None and (
                self._idle_for(history, replica, now) >= self.windows.reclaim
            )
            if not replica.ready or long:
                found.add(replica.replica_id)
        return found

    def _new(self) -> _History:
        return _History(_Extreme(self.windows.up, le), _Extreme(self.windows.down, ge))

    def _sum(self, history: _History, endpoint: Endpoint, now: datetime) -> None:
        """Add up what the ready replicas have said, if that is known of all of them."""
        ready = {replica.replica_id: replica for replica in _ready(endpoint)}
        for replica_id in history.replicas.keys() - ready.keys():
            del history.replicas[replica_id]
        total = 0.0
        for replica_id, replica in ready.items():
            said = history.replicas.get(replica_id)
            average = said.average_by(now, self.windows.stale) if said else None
            if average is None and not self._is_new(replica, now):
                history.known_since = history.known_at = None
                history.low.clear()
                history.high.clear()
                return
            total += average or 0.0
        last = history.known_at
        if last is None or not timedelta(0) <= now - last <= self.windows.stale:
            history.known_since = now
            history.low.clear()
            history.high.clear()
        history.known_at, history.in_flight = now, total
        history.low.add(now, total)
        history.high.add(now, total)

    def _is_new(self, replica: Replica, now: datetime) -> bool:
        """Tell whether a replica became ready so lately that it cannot have said much."""
        return replica.ready_at is not None and now - replica.ready_at <= self.windows.stale

    def _idle_for(self, history: _History, replica: Replica, now: datetime) -> timedelta:
        said = history.replicas.get(replica.replica_id)
        if said is None or said.idle_since is None or now - said.at > self.windows.stale:
            return timedelta(0)
        return max(timedelta(0), now - said.idle_since)


def _ready(endpoint: Endpoint) -> list[Replica]:
    return [replica for replica in endpoint.replicas if replica.ready]
