"""What a node should run, and where an endpoint's requests may go: both follow from the view."""

from collections.abc import Callable
from datetime import timedelta
from typing import TypeAlias

from engineshed.api.agent.v1.agent_service_pb2 import DesiredReplica
from engineshed.api.scheduler.v1.route_pb2 import Route, RouteReplica
from engineshed.scheduler.domain.endpoint import Endpoint, EndpointState
from engineshed.scheduler.domain.replica import Replica, ReplicaState
from engineshed.scheduler.domain.view import View

# The bearer token that a replica demands, by the replica's id.
SecretOf: TypeAlias = Callable[[str], str]


def desired_replicas(
    view: View, node_id: str, secret_of: SecretOf, drain_timeout: timedelta
) -> list[DesiredReplica]:
    """Return all that a node should have, in order of replica id; what is not there must go."""
    found = sorted(view.replicas_on(node_id), key=lambda item: item[1].replica_id)
    return [
        _desired(endpoint, replica, secret_of(replica.replica_id), drain_timeout)
        for endpoint, replica in found
    ]


def route_of(endpoint: Endpoint, secret_of: SecretOf) -> Route:
    """Return where the endpoint's requests may go, not yet ordered by term and generation."""
    status = endpoint.status
    route = Route(
        routing_key=endpoint.routing_key,
        endpoint_id=endpoint.endpoint_id,
        org_id=endpoint.org_id,
        region=endpoint.region,
        status=status.state.name.lower(),
        status_reason=status.reason,
        ever_ready=endpoint.ever_ready,
        replicas=[
            RouteReplica(
                replica_id=replica.replica_id,
                url=replica.url,
                secret=secret_of(replica.replica_id),
            )
            for replica in endpoint.replicas
            if replica.routable
        ],
        tombstone=status.state is EndpointState.TERMINATED,
    )
    route.create_time.FromDatetime(endpoint.created_at)
    if endpoint.scaling.min_replicas == 0:
        route.wake_timeout.FromTimedelta(endpoint.scaling.wake_timeout)
    return route


def _desired(
    endpoint: Endpoint, replica: Replica, secret: str, drain_timeout: timedelta
) -> DesiredReplica:
    deployment = replica.deployment
    desired = DesiredReplica(
        replica_id=replica.replica_id,
        endpoint_id=endpoint.endpoint_id,
        org_id=endpoint.org_id,
        goal=_goal(replica),
        gpus=replica.gpus,
        checkpoint_location=deployment.checkpoint.location,
        checkpoint_digest=deployment.checkpoint.digest,
        serving=deployment.serving.message(),
        routing_key=endpoint.routing_key,
        secret=secret,
    )
    desired.drain_timeout.FromTimedelta(drain_timeout)
    return desired


def _goal(replica: Replica) -> DesiredReplica.Goal.ValueType:
    if replica.state is not ReplicaState.DRAINING:
        return DesiredReplica.GOAL_RUN
    # One that was never ready was in no route, so it has nothing to finish.
    return DesiredReplica.GOAL_STOP if replica.ready_at is None else DesiredReplica.GOAL_DRAIN
