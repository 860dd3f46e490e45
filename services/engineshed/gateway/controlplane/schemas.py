"""What the REST API answers with: the shapes of the objects in `views`, for its description."""

from datetime import datetime
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

T = TypeVar("T")


class Shape(BaseModel):
    """A JSON object with exactly these fields: what is not described is never sent."""

    model_config = ConfigDict(extra="forbid")


class Page(Shape, Generic[T]):
    """A part of a list."""

    data: list[T]
    next_page_token: str = Field(description="Asks for the next page; empty on the last one.")


# Whole seconds stay whole.
Seconds = Annotated[int | float, WithJsonSchema({"type": "number"})]


class EndpointScaling(Shape):
    """How many replicas an endpoint has, and when it has none."""

    min_replicas: int = Field(description="Reserved and always there; 0: it may be idle.")
    max_replicas: int = Field(description="What load may add up to.")
    idle_after: Seconds = Field(
        description="Seconds without a request after which the last replica goes, when "
        "min_replicas is 0."
    )
    wake_timeout: Seconds = Field(
        description="Seconds for which a request is held while there is no replica, when "
        "min_replicas is 0."
    )


class EndpointServing(Shape):
    """How a model is served; null: as the checkpoint states, or the back end likes."""

    max_context: int | None
    precision: str | None
    quantization: str | None
    max_batch_size: int | None = Field(description="Requests that the engine works on at once.")
    max_batch_tokens: int | None = Field(description="Tokens that one step of the engine takes.")
    kv_cache_fraction: float | None = Field(
        description="Of the GPU memory that is free once the engine is loaded."
    )


class Replica(Shape):
    """One copy of a model on GPUs of one node."""

    id: str
    replica_id: str
    status: Literal[
        "placed",
        "fetching",
        "building",
        "loading",
        "ready",
        "draining",
        "stopped",
        "failed",
        "lost",
    ]
    status_reason: str
    node_id: str
    gpus: list[int]
    capacity: str = Field(description="reserved, or opportunistic above min_replicas.")
    deployment: int = Field(description="The number of what it runs.")
    leaving: str | None = Field(description="Why it is being replaced.")
    engine_digest: str | None
    engine_backend: str | None
    engine_kind: str | None
    progress: float = Field(description="How far the present stage has come, 0 to 1.")
    progress_message: str
    created_at: datetime


class Deployment(Shape):
    """What replicas run."""

    deployment: int = Field(description="Its number within the endpoint.")
    checkpoint_id: str
    checkpoint_digest: str | None
    gpu_type: str
    gpu_count: int
    serving: EndpointServing


class Rollout(Shape):
    """A change of deployment that is under way or failed."""

    status: Literal["in_progress", "failed"]
    reason: str = Field(description="What it waits for, or why it failed.")
    strategy: Literal["surge", "recreate"]
    updated_replicas: int = Field(description="Ready replicas of the new deployment.")
    previous: Deployment = Field(description="What a rollback goes back to.")
    started_at: datetime


class Endpoint(Shape):
    """A dedicated endpoint with its replicas."""

    id: str
    endpoint_id: str
    org_id: str
    name: str
    description: str
    model_name: str
    flavor_name: str
    checkpoint_id: str
    checkpoint_digest: str | None
    gpu_type: str
    gpu_count: int
    region: str
    scaling: EndpointScaling
    serving: EndpointServing
    enabled: bool
    status: Literal[
        "queued",
        "provisioning",
        "running",
        "idle",
        "stopping",
        "stopped",
        "failed",
        "terminated",
    ]
    status_reason: str = Field(description="What it waits for, or why it failed.")
    degraded: bool = Field(description="It runs with fewer ready replicas than min_replicas.")
    queue_position: int | None
    ever_ready: bool
    routing_key: str = Field(description="The `model` of inference requests.")
    url: str = Field(description="Its own base URL, with /v1, /ping and /health below it.")
    wanted_replicas: int = Field(
        description="How many should run now, as load asks for; 0: it is idle, or not enabled."
    )
    replicas: list[Replica]
    created_at: datetime
    updated_at: datetime
    version: int
    etag: str
    deployment: int = Field(description="The number of what its replicas should run.")
    rollout: Rollout | None


class Flavor(Shape):
    """A template's variant; an empty list: whatever the nodes offer."""

    flavor_name: str
    description: str
    serving: EndpointServing
    gpu_types: list[str]
    gpu_counts: list[int]
    regions: list[str]


class Template(Shape):
    """A model that can be deployed by name."""

    id: str
    model_name: str
    description: str
    checkpoint_id: str | None
    flavors: list[Flavor]


class Progress(Shape):
    """How much is copied and hashed."""

    done_bytes: int
    total_bytes: int


class File(Shape):
    """A file of a checkpoint."""

    path: str
    size_bytes: int
    sha256: str


class Checkpoint(Shape):
    """A registered checkpoint."""

    id: str
    checkpoint_id: str
    org_id: str
    name: str
    status: Literal["registering", "registered", "failed", "deleted", "reclaimed"]
    status_reason: str
    uri: str
    digest: str
    size_bytes: int
    architecture: str
    parameter_count: int
    dtype: str
    max_position_embeddings: int | None
    base_model: str | None
    producer_job_id: str | None
    has_chat_template: bool
    progress: Progress
    created_at: datetime
    updated_at: datetime
    etag: str


class CheckpointWithFiles(Checkpoint):
    """A registered checkpoint with its manifest."""

    files: list[File]


class Gpu(Shape):
    """A GPU of a node and who holds it."""

    index: int
    replica_id: str | None
    endpoint_id: str | None
    org_id: str | None


class Node(Shape):
    """A GPU host."""

    id: str
    node_id: str
    status: Literal["joined", "cordoned", "draining", "left", "lost"]
    status_reason: str = Field(description="Why it is out of use, in the operator's words.")
    hostname: str
    region: str
    gpu_type: str
    gpu_count: int
    gpu_memory_bytes: int
    driver: str | None
    simulated: bool
    backends: list[str]
    agent_version: str
    gpu_product: str | None = Field(description="As its driver says it; null without GPUs.")
    compute_capability: str | None
    gpu_uuids: list[str] = Field(description="The names that CUDA knows them by, by index.")
    versions: dict[str, str] = Field(description="Of what its back ends build and serve with.")
    gpus: list[Gpu]
    joined_at: datetime
    heard_at: datetime | None


class Token(Shape):
    """An API token, without its secret."""

    id: str
    token_id: str
    org_id: str
    name: str
    scopes: list[str]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None


class TokenWithSecret(Token):
    """A new API token."""

    token: str = Field(description="The secret: shown this once.")


class Organization(Shape):
    """An organization."""

    id: str
    org_id: str
    slug: str
    created_at: datetime


class Event(Shape):
    """Something that happened."""

    id: str
    event_id: str
    position: int
    stream: str
    version: int
    type: str
    name: str
    time: datetime
    actor: str
    request_id: str
    causation_id: str
    data: dict[str, Any]


class LogLine(Shape):
    """A line of a replica's log."""

    sequence: int
    time: datetime
    replica_id: str
    source: str
    line: str


class LogPage(Page[LogLine]):
    """Lines, newest first."""

    before: int | None = Field(description="Asks for the lines before these; null: none are left.")


class ServedEndpoint(Shape):
    """The endpoint at the head of a lineage."""

    id: str
    endpoint_id: str
    name: str
    status: str
    routing_key: str
    serving: EndpointServing


class BuiltEngine(Shape):
    """What a replica has built of the checkpoint."""

    replica_id: str
    status: str
    engine_digest: str
    engine_backend: str


class Lineage(Shape):
    """Which weights an endpoint serves, and where they came from."""

    endpoint: ServedEndpoint
    engines: list[BuiltEngine]
    checkpoint: CheckpointWithFiles
    job: None = Field(description="The fine-tuning job, if one made the checkpoint.")
    dataset: None = Field(description="What the job was trained on.")


class FieldProblem(Shape):
    """A field that cannot be accepted."""

    field: str
    message: str


class Problem(BaseModel):
    """An error, as RFC 9457 has it; some carry more facts beside these."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    reason: str = Field(description="A stable name, for programs.")
    request_id: str
    errors: list[FieldProblem]
