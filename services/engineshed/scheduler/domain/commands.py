"""What can be asked of an endpoint: by its owner, by the planner, by an agent's report."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeAlias

from engineshed.api.scheduler.v1 import events_pb2 as pb
from engineshed.scheduler.domain.endpoint import Strategy
from engineshed.scheduler.domain.replica import Checkpoint, ReplicaState, Serving
from engineshed.scheduler.domain.scaling import Scaling


@dataclass(frozen=True, slots=True)
class Create:
    """Serve a checkpoint; admitted already (`admission.py`)."""

    endpoint_id: str
    org_id: str
    name: str
    description: str
    model_name: str
    flavor_name: str
    checkpoint: Checkpoint
    gpu_type: str
    gpu_count: int
    region: str
    scaling: Scaling
    serving: Serving
    routing_key: str


@dataclass(frozen=True, slots=True)
class Redeployment:
    """What is to be different of the deployment; None leaves it as it is."""

    checkpoint: Checkpoint | None = None
    gpu_type: str | None = None
    gpu_count: int | None = None
    max_context: int | None = None
    precision: str | None = None
    quantization: str | None = None
    max_batch_size: int | None = None
    max_batch_tokens: int | None = None
    kv_cache_fraction: float | None = None
    strategy: Strategy = Strategy.SURGE


@dataclass(frozen=True, slots=True)
class Update:
    """Change what is given; None leaves it as it is."""

    etag: str = ""  # empty: whatever version it has
    name: str | None = None
    description: str | None = None
    enabled: bool | None = None
    min_replicas: int | None = None
    max_replicas: int | None = None
    idle_after: timedelta | None = None
    wake_timeout: timedelta | None = None
    most_replicas: int | None = None  # how many the fleet could ever hold
    redeployment: Redeployment = Redeployment()  # admitted already


@dataclass(frozen=True, slots=True)
class Rollback:
    """Go back to the deployment before the rollout."""

    etag: str = ""


@dataclass(frozen=True, slots=True)
class Stop:
    """Drain the replicas and release their GPUs."""


@dataclass(frozen=True, slots=True)
class Restart:
    """Bring a stopped endpoint back as it was."""


@dataclass(frozen=True, slots=True)
class Delete:
    """Terminate it for good."""

    etag: str = ""
    reason: str = ""  # why; "": somebody asked for it


@dataclass(frozen=True, slots=True)
class UseCheckpoint:
    """The checkpoint that it waited for is registered."""

    checkpoint: Checkpoint


@dataclass(frozen=True, slots=True)
class Fail:
    """It cannot be served."""

    code: str
    reason: str


@dataclass(frozen=True, slots=True)
class Placement:
    """GPUs for a new replica, and why these."""

    replica_id: str
    node_id: str
    gpus: tuple[int, ...]
    why: pb.PlacementDecision


@dataclass(frozen=True, slots=True)
class Place:
    """Take these GPUs for it."""

    placements: tuple[Placement, ...]
    deployment: int = 1  # the number of the one that they were planned for


@dataclass(frozen=True, slots=True)
class Wait:
    """There is no room for it now."""

    reason: str


@dataclass(frozen=True, slots=True)
class Autoscale:
    """Its load asks for another number of replicas; see `autoscale.py`."""

    replicas: int
    why: pb.ScalingDecision


@dataclass(frozen=True, slots=True)
class Wake:
    """A request has come."""


@dataclass(frozen=True, slots=True)
class Reclaim:
    """Give these opportunistic replicas' GPUs to reserved ones of another endpoint."""

    replica_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """What an agent says of one replica."""

    replica_id: str
    state: ReplicaState
    since: datetime  # by the scheduler's clock
    code: str = ""
    reason: str = ""
    retryable: bool = True
    engine_digest: str = ""
    engine_backend: str = ""
    engine_kind: str = ""
    url: str = ""
    engine_memory_bytes: int = 0  # of each GPU, without the pool; 0: nobody measured


@dataclass(frozen=True, slots=True)
class Lose:
    """The node of these replicas is not heard."""

    replica_ids: tuple[str, ...]
    heard_at: datetime


@dataclass(frozen=True, slots=True)
class Leave:
    """These replicas are to be replaced, and to drain once their replacements are ready."""

    replica_ids: tuple[str, ...]
    reason: str


Command: TypeAlias = (
    Create
    | Update
    | Rollback
    | Stop
    | Restart
    | Delete
    | UseCheckpoint
    | Fail
    | Place
    | Wait
    | Autoscale
    | Wake
    | Reclaim
    | Report
    | Lose
    | Leave
)
