"""Endpoints and nodes as callers see them."""

from datetime import datetime

from engineshed.api.scheduler.v1 import endpoint_service_pb2 as api
from engineshed.api.scheduler.v1 import node_service_pb2 as node_api
from engineshed.runtime import to_timestamp
from engineshed.scheduler.agents import Agents
from engineshed.scheduler.domain.endpoint import ENDED_SHOWN, Endpoint, EndpointState
from engineshed.scheduler.domain.filters import what_is_missing
from engineshed.scheduler.domain.node import Node, message_of
from engineshed.scheduler.domain.replica import Replica, ReplicaState
from engineshed.scheduler.domain.view import View

_BUSY = (ReplicaState.FETCHING, ReplicaState.BUILDING, ReplicaState.LOADING)


def endpoint_message(
    endpoint: Endpoint,
    now: datetime,
    *,
    view: View | None = None,
    agents: Agents | None = None,
    purged_at: datetime | None = None,
) -> api.Endpoint:
    """Return an endpoint as it is at `now`.

    Args:
        endpoint: its state.
        now: the present moment, or the one that the state is of.
        view: tells its place in the queue and what it misses; without it, a past state is shown.
        agents: tell how far its replicas are; without them, a past state is shown.
        purged_at: when it will be terminated if it stays stopped; None: never.

    """
    status = endpoint.status
    queued = view is not None and status.state is EndpointState.QUEUED
    reason = status.reason or (what_is_missing(view, endpoint, now) if view else "")
    if purged_at is not None:
        reason = f"will be purged at {purged_at:%Y-%m-%dT%H:%M:%SZ} unless it is restarted"
    return api.Endpoint(
        endpoint_id=endpoint.endpoint_id,
        org_id=endpoint.org_id,
        name=endpoint.name,
        description=endpoint.description,
        model_name=endpoint.model_name,
        flavor_name=endpoint.flavor_name,
        checkpoint_id=endpoint.checkpoint.checkpoint_id,
        checkpoint_digest=endpoint.checkpoint.digest,
        gpu_type=endpoint.gpu_type,
        gpu_count=endpoint.gpu_count,
        region=endpoint.region,
        scaling=endpoint.scaling.message(),
        wanted_replicas=endpoint.wanted,
        serving=endpoint.serving.message(),
        enabled=endpoint.enabled,
        state=api.Endpoint.State.ValueType(status.state),
        state_reason=reason,
        degraded=status.degraded,
        routing_key=endpoint.routing_key,
        replicas=[
            _replica(endpoint, replica, agents)
            for replica in endpoint.replicas
            if replica.ended_at is None or now - replica.ended_at <= ENDED_SHOWN
        ],
        create_time=to_timestamp(endpoint.created_at),
        update_time=to_timestamp(endpoint.updated_at),
        version=endpoint.version,
        etag=endpoint.etag,
        queue_position=view.queue_position(endpoint) if queued and view else 0,
        ever_ready=endpoint.ever_ready,
        deployment=endpoint.deployment.number,
        rollout=_rollout(endpoint, reason) if endpoint.rollout else None,
    )


def node_message(node: Node, view: View, agents: Agents) -> node_api.Node:
    """Return a node with who holds its GPUs."""
    holders = view.holders(node.node_id)
    message = node_api.Node(
        node_id=node.node_id,
        state=node_api.Node.State.ValueType(node.state),
        inventory=message_of(node.inventory),
        join_time=to_timestamp(node.joined_at),
        reported=agents.has_reported(node.node_id),
        reason=node.reason,
    )
    for gpu in range(node.inventory.gpu_count):
        allocation = message.gpus.add(index=gpu)
        if gpu in holders:
            holder = holders[gpu]
            allocation.replica_id = holder.replica_id
            allocation.endpoint_id = holder.endpoint_id
            allocation.org_id = view.endpoints[holder.endpoint_id].org_id
    heard_at = agents.heard_at(node.node_id) or node.heard_at
    if heard_at is not None:
        message.heard_time.CopyFrom(to_timestamp(heard_at))
    return message


def _rollout(endpoint: Endpoint, waits_for: str) -> api.Rollout:
    rollout = endpoint.rollout
    assert rollout is not None, "only a rollout is shown"
    previous, failed = rollout.previous, bool(rollout.failure)
    updated = sum(
        replica.ready and replica.deployment == endpoint.deployment for replica in endpoint.replicas
    )
    return api.Rollout(
        state=api.Rollout.STATE_FAILED if failed else api.Rollout.STATE_IN_PROGRESS,
        reason=rollout.failure or waits_for,
        strategy=api.UpdateStrategy.ValueType(rollout.strategy),
        updated_replicas=updated,
        previous=api.Deployment(
            number=previous.number,
            checkpoint_id=previous.checkpoint.checkpoint_id,
            checkpoint_digest=previous.checkpoint.digest,
            gpu_type=previous.gpu_type,
            gpu_count=previous.gpu_count,
            serving=previous.serving.message(),
        ),
        start_time=to_timestamp(rollout.started_at),
    )


def _replica(endpoint: Endpoint, replica: Replica, agents: Agents | None) -> api.Replica:
    message = api.Replica(
        replica_id=replica.replica_id,
        state=api.Replica.State.ValueType(replica.state),
        state_reason=replica.reason,
        node_id=replica.node_id,
        gpus=replica.gpus,
        capacity=endpoint.capacity_of(replica),
        engine_digest=replica.engine_digest,
        engine_backend=replica.engine_backend,
        engine_kind=replica.engine_kind,
        create_time=to_timestamp(replica.placed_at),
        deployment=replica.deployment.number,
        leaving=replica.leaving,
    )
    shown = agents.shown(replica.node_id, replica.replica_id) if agents else None
    if shown is not None and not replica.ended:
        message.engine_digest = replica.engine_digest or shown.engine_digest
        message.engine_backend = replica.engine_backend or shown.engine_backend
        message.engine_kind = replica.engine_kind or shown.engine_kind
        if replica.state in _BUSY:
            message.progress = shown.progress
            message.progress_message = shown.progress_message
        if replica.state is ReplicaState.DRAINING:
            message.progress_message = f"{shown.in_flight} requests in flight"
    return message
