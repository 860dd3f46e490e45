"""Endpoint: one checkpoint, served by replicas on GPUs that are reserved for it.

The state. How recorded events make it is in `evolve.py`, what a command may add in `decide.py`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import IntEnum
from typing import Final, TypeAlias

from engineshed.api.scheduler.v1 import events_pb2 as pb
from engineshed.scheduler.domain import failure
from engineshed.scheduler.domain.failure import Failure
from engineshed.scheduler.domain.replica import (
    Checkpoint,
    Deployment,
    Replica,
    ReplicaEvent,
    Serving,
)
from engineshed.scheduler.domain.scaling import Autoscaling, Scaling

# How long ended replicas are shown.
ENDED_SHOWN: Final = timedelta(minutes=10)

# How many replicas more than wanted there may be while some are replaced.
SURGE: Final = 1

WAITING_TO_BE_PLACED: Final = "waiting to be placed"

EndpointEvent: TypeAlias = (
    pb.EndpointCreated
    | pb.EndpointCheckpointReady
    | pb.EndpointRenamed
    | pb.EndpointScaled
    | pb.EndpointAutoscaled
    | pb.EndpointIdle
    | pb.EndpointWoken
    | pb.EndpointRedeployed
    | pb.EndpointRolledBack
    | pb.EndpointRolledOut
    | pb.EndpointRolloutFailed
    | pb.EndpointQueued
    | pb.EndpointProvisioning
    | pb.EndpointRunning
    | pb.EndpointStopping
    | pb.EndpointStopped
    | pb.EndpointRestarted
    | pb.EndpointFailed
    | pb.EndpointTerminated
    | pb.ReplicaPlaced
    | ReplicaEvent
)


class EndpointState(IntEnum):
    """Where an endpoint is in its life; the numbers are those of `Endpoint.State`."""

    QUEUED = 1
    PROVISIONING = 2
    RUNNING = 3
    IDLE = 4
    STOPPING = 5
    STOPPED = 6
    FAILED = 7
    TERMINATED = 8


class Strategy(IntEnum):
    """How replicas of a new deployment take the place of old ones; as in `UpdateStrategy`."""

    SURGE = 1
    RECREATE = 2


@dataclass(frozen=True, slots=True)
class Status:
    """What an endpoint's owner sees of its life."""

    state: EndpointState
    reason: str = ""
    degraded: bool = False


@dataclass(frozen=True, slots=True)
class Rollout:
    """A change of deployment that is under way, or failed."""

    previous: Deployment  # what it falls back to
    strategy: Strategy
    started_at: datetime
    failure: str = ""  # why it failed; "": it is under way


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An endpoint with its replicas, in the order in which they were placed."""

    endpoint_id: str
    org_id: str
    name: str
    description: str
    model_name: str
    flavor_name: str
    deployment: Deployment  # what its replicas should run
    region: str
    scaling: Scaling
    autoscaling: Autoscaling
    routing_key: str
    created_at: datetime
    updated_at: datetime
    arrived_at: datetime  # since when it stands in the queue, when it waits
    revision: int  # events in its stream
    version: int = 1  # changes of what its owner specified
    enabled: bool = True
    status: Status = Status(EndpointState.QUEUED, WAITING_TO_BE_PLACED)
    replicas: tuple[Replica, ...] = ()
    ever_ready: bool = False
    failures: tuple[Failure, ...] = ()  # in a row, of what is being placed
    rollout: Rollout | None = None
    deployments: int = 1  # numbers given out so far

    @property
    def etag(self) -> str:
        """What guards an update; it changes with `version`."""
        return f"v{self.version}"

    @property
    def ended(self) -> bool:
        """Whether it can never serve again."""
        return self.status.state in (EndpointState.FAILED, EndpointState.TERMINATED)

    @property
    def wanted(self) -> int:
        """How many replicas should run."""
        return self.autoscaling.replicas if self.enabled and not self.ended else 0

    @property
    def elastic(self) -> bool:
        """Whether load decides on how many replicas run."""
        return self.scaling.max_replicas > self.scaling.min_replicas

    @property
    def checkpoint(self) -> Checkpoint:
        """What it should serve."""
        return self.deployment.checkpoint

    @property
    def gpu_type(self) -> str:
        """The kind of GPU that it should have."""
        return self.deployment.gpu_type

    @property
    def gpu_count(self) -> int:
        """How many GPUs each of its replicas should have."""
        return self.deployment.gpu_count

    @property
    def serving(self) -> Serving:
        """How its model should be served."""
        return self.deployment.serving

    @property
    def placing(self) -> Deployment:
        """What the next replica runs: after a failed rollout, what was there before."""
        if self.rollout is not None and self.rollout.failure:
            return self.rollout.previous
        return self.deployment

    def current(self, replica: Replica) -> bool:
        """Tell whether a replica may stay, and is not one that is to be replaced."""
        if replica.leaving:
            return False
        number = replica.deployment.number
        # A rollout that failed takes nothing away that serves.
        return number == self.placing.number or (
            number == self.deployment.number and replica.routable
        )

    @property
    def missing(self) -> int:
        """How many replicas are to be placed now.

        Replacements come one at a time: one more replica than wanted, until it is ready.
        """
        if not self.placing.checkpoint.digest:
            return 0
        live = [replica for replica in self.replicas if replica.live]
        gap = self.wanted - sum(map(self.current, live))
        return max(0, min(gap, self.wanted + SURGE - len(live)))

    @property
    def missing_reserved(self) -> int:
        """How many of the missing ones are reserved for it, so that they outrank what is not."""
        reserved = self.scaling.min_replicas - len(self.staying)
        return max(0, min(self.missing, reserved))

    @property
    def staying(self) -> list[Replica]:
        """The live replicas that nobody replaces, those first that would stay longest.

        Those are furthest on their way to serving, then the oldest.
        """
        current = [replica for replica in self.replicas if replica.live and self.current(replica)]
        return sorted(current, key=lambda replica: -replica.state)  # stable

    @property
    def opportunistic(self) -> list[Replica]:
        """The replicas that load has added, which reserved ones of others outrank."""
        if self.wanted <= self.scaling.min_replicas:
            return []
        return self.staying[self.scaling.min_replicas :]

    def capacity_of(self, replica: Replica) -> str:
        """Return whether a replica is "reserved" or "opportunistic" now."""
        if not (replica.live and self.current(replica)):
            return replica.capacity
        return "opportunistic" if replica in self.opportunistic else "reserved"

    @property
    def ready(self) -> int:
        """How many replicas are ready."""
        return sum(replica.ready for replica in self.replicas)

    @property
    def retry_at(self) -> datetime | None:
        """When the next replica may be placed; None: at once."""
        return failure.retry_at(self.failures)

    @property
    def holds_gpus(self) -> bool:
        """Whether any replica's GPUs are still taken."""
        return any(True for _ in self.occupying())

    def occupying(self) -> Iterator[Replica]:
        """Yield the replicas whose GPUs are taken."""
        return (replica for replica in self.replicas if not replica.ended)

    def replica(self, replica_id: str) -> Replica | None:
        """Return a replica; None when it is not known (any more)."""
        return next((item for item in self.replicas if item.replica_id == replica_id), None)
