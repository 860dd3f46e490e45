"""Scaling: how many replicas an endpoint may have, and how many of those its load asks for."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from engineshed.api.scheduler.v1 import endpoint_service_pb2 as api
from engineshed.api.scheduler.v1 import events_pb2 as pb

# After how long without a request the last replica goes, and how long requests wait for the next
# one, unless the owner says otherwise.
IDLE_AFTER: Final = timedelta(minutes=5)
WAKE_TIMEOUT: Final = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Scaling:
    """How many replicas an endpoint has: what is reserved for it, and what load may add."""

    min_replicas: int
    max_replicas: int
    idle_after: timedelta = IDLE_AFTER
    wake_timeout: timedelta = WAKE_TIMEOUT

    def message(self) -> api.Scaling:
        """Return it as messages have it."""
        message = api.Scaling(min_replicas=self.min_replicas, max_replicas=self.max_replicas)
        message.idle_after.FromTimedelta(self.idle_after)
        message.wake_timeout.FromTimedelta(self.wake_timeout)
        return message


def scaling_of(message: api.Scaling) -> Scaling:
    """Return the bounds that a message tells, with what it leaves out."""
    return Scaling(
        message.min_replicas,
        message.max_replicas,
        message.idle_after.ToTimedelta() if message.HasField("idle_after") else IDLE_AFTER,
        message.wake_timeout.ToTimedelta() if message.HasField("wake_timeout") else WAKE_TIMEOUT,
    )


@dataclass(frozen=True, slots=True)
class Autoscaling:
    """How many replicas load asks for, within the bounds, and since when."""

    replicas: int
    why: pb.ScalingDecision | None = None  # None: nothing was decided since bounds or life changed
    at: datetime | None = None
