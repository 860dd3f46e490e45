"""Why an endpoint is where it is: the shape of that answer, and the answer."""

from datetime import datetime

from pydantic import Field

from engineshed.api.scheduler.v1 import scheduling_service_pb2 as pb
from engineshed.api.scheduler.v1.endpoint_service_pb2 import Endpoint, Replica
from engineshed.api.scheduler.v1.events_pb2 import EndpointLoad
from engineshed.gateway.controlplane.schemas import Seconds, Shape
from engineshed.gateway.controlplane.views import Json, seconds, status, time


class Candidate(Shape):
    """A node that would have fitted."""

    node_id: str
    score: float = Field(description="Higher is better.")


class Placement(Shape):
    """Why a replica is where it is, as it was decided."""

    replica_id: str
    status: str = Field(description="That of the replica now.")
    node_id: str
    placed_at: datetime
    policy_version: str
    candidates: list[Candidate] = Field(description="Best first; the chosen one, to tenants.")
    candidate_count: int = Field(description="How many were compared last, five at most.")
    rejected: dict[str, int] = Field(description="Nodes turned away by filter, to operators.")


class Wait(Shape):
    """What replicas wait for that are not placed."""

    missing_replicas: int
    reason: str
    queue_position: int | None
    queue_length: int | None = Field(description="To operators.")
    retry_at: datetime | None = Field(description="null: as soon as there is room.")
    rejected: dict[str, int] = Field(description="Nodes turned away by filter, to operators.")
    nominated_node_id: str | None = Field(description="The node kept for it, to operators.")


class Load(Shape):
    """What the replicas of an endpoint say of their requests, all together."""

    in_flight: float = Field(description="Requests in flight, on average since the last report.")
    low: float = Field(description="The least that this was within the window for scaling up.")
    high: float | None = Field(
        description="The most that this was within the window for scaling down; null: not known."
    )
    idle_seconds: Seconds | None = Field(
        description="How long ago the last request ended; 0: there are some now; null: not known."
    )


class ScalingDecision(Shape):
    """Why load changed the number of replicas, as it was decided."""

    decided_at: datetime | None
    policy_version: str
    replicas_before: int
    target: float = Field(description="Requests in flight that each replica should have.")
    load: Load
    reason: str


class ScalingExplanation(Shape):
    """How load decides on the number of replicas."""

    target: float = Field(description="Requests in flight that each replica should have.")
    load: Load | None = Field(description="What is seen now; null: unknown, nothing is changed.")
    last: ScalingDecision | None = Field(description="The last change; null: there was none yet.")
    reason: str = Field(description="Why the number of replicas is not changed now.")


class Explanation(Shape):
    """Why an endpoint is where it is, what it waits for, and how load scales it."""

    id: str
    endpoint_id: str
    status: str
    status_reason: str
    replicas: list[Placement]
    wait: Wait | None
    scaling: ScalingExplanation | None = Field(
        description="null: load does not decide on the number of its replicas."
    )


def explain(item: pb.ExplainEndpointResponse) -> Json:
    """Return why an endpoint is where it is, and what it waits for."""
    wait = item.wait
    states = {one.replica_id: one.state for one in item.endpoint.replicas}
    return {
        "id": item.endpoint.endpoint_id,
        "endpoint_id": item.endpoint.endpoint_id,
        "status": status(Endpoint.State.Name(item.endpoint.state)),
        "status_reason": item.endpoint.state_reason,
        "replicas": [
            {
                "replica_id": one.replica_id,
                "status": status(Replica.State.Name(states[one.replica_id])),
                "node_id": one.node_id,
                "placed_at": time(one, "place_time"),
                "policy_version": one.why.policy_version,
                "candidates": [
                    {"node_id": node.node_id, "score": node.score} for node in one.why.candidates
                ],
                "candidate_count": one.candidates,
                "rejected": dict(one.why.rejected),
            }
            for one in item.placements
        ],
        "wait": {
            "missing_replicas": wait.missing_replicas,
            "reason": wait.reason,
            "queue_position": wait.queue_position or None,
            "queue_length": wait.queue_length or None,
            "retry_at": time(wait, "retry_time"),
            "rejected": dict(wait.rejected),
            "nominated_node_id": wait.nominated_node_id or None,
        }
        if item.HasField("wait")
        else None,
        "scaling": _scaling(item.scaling) if item.HasField("scaling") else None,
    }


def _scaling(item: pb.ScalingExplanation) -> Json:
    last = item.last
    return {
        "target": item.target,
        "load": _load(item.load) if item.HasField("load") else None,
        "last": {
            "decided_at": time(item, "last_time"),
            "policy_version": last.policy_version,
            "replicas_before": last.replicas,
            "target": last.target,
            "load": _load(last.load),
            "reason": last.reason,
        }
        if item.HasField("last")
        else None,
        "reason": item.reason,
    }


def _load(item: EndpointLoad) -> Json:
    return {
        "in_flight": item.in_flight,
        "low": item.low,
        "high": item.high if item.HasField("high") else None,
        "idle_seconds": seconds(item.idle_age) if item.HasField("idle_age") else None,
    }
