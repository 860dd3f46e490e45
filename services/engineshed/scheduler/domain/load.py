"""Load: what the replicas of an endpoint say of their requests, as decisions see it.

Signals are inputs of plan() that are no events: they are recorded with what was decided from them.
"""

from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from datetime import timedelta

from engineshed.api.scheduler.v1 import events_pb2 as pb


@dataclass(frozen=True, slots=True)
class Load:
    """Requests in flight of all ready replicas together, each number an average of some seconds."""

    in_flight: float  # now
    low: float  # the least within the up window; 0 also while that is not covered
    high: float | None  # the most within the down window; None while that is not covered
    idle_for: timedelta  # since the last request ended, or its replica became ready; 0: busy

    def message(self, endpoint_id: str) -> pb.EndpointLoad:
        """Return it as messages have it."""
        message = pb.EndpointLoad(
            endpoint_id=endpoint_id, in_flight=self.in_flight, low=self.low, high=self.high
        )
        message.idle_age.FromTimedelta(self.idle_for)
        return message


def load_of(message: pb.EndpointLoad) -> Load:
    """Return the load that a message tells."""
    high = message.high if message.HasField("high") else None
    return Load(message.in_flight, message.low, high, message.idle_age.ToTimedelta())


@dataclass(frozen=True, slots=True)
class Signals:
    """What a plan knows that no event says."""

    # By endpoint, for those whose number of replicas is to be decided; one whose load is not known
    # is not there, and keeps what it has.
    loads: Mapping[str, Load] = field(default_factory=dict)

    # Opportunistic replicas that have had no request for long enough to be reclaimed.
    idle: Set[str] = frozenset()


NO_SIGNALS = Signals()
