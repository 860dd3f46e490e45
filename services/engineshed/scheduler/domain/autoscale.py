"""How many replicas an endpoint should have, by the requests that they have in flight.

Each replica should have `Policy.target` of them on average. Both directions have a window: up goes
what has been needed throughout the up window, down what has not been needed anywhere in the down
window. So a short burst adds nothing, a short pause takes nothing away, and what was just added
cannot go again before the down window has passed (as Kubernetes' stabilization windows:
https://kubernetes.io/docs/concepts/workloads/autoscaling/horizontal-pod-autoscale/). The last one
goes when there has been no request for `Scaling.idle_after`.
"""

from dataclasses import dataclass
from math import ceil

from engineshed.api.scheduler.v1 import events_pb2 as pb
from engineshed.scheduler.domain.endpoint import Endpoint
from engineshed.scheduler.domain.load import Load
from engineshed.scheduler.domain.score import Policy

# Averages are not exact: so much more than a whole number of replicas needs no further one.
_TOLERANCE = 0.01


@dataclass(frozen=True, slots=True)
class Scale:
    """Want another number of replicas of an endpoint."""

    endpoint_id: str
    replicas: int
    why: pb.ScalingDecision


def autoscale(endpoint: Endpoint, load: Load, policy: Policy) -> Scale | None:
    """Return the change that the load asks for; None: as it is."""
    replicas, reason = _needed(endpoint, load, policy)
    if replicas == endpoint.wanted:
        return None
    why = pb.ScalingDecision(
        policy_version=policy.version,
        replicas=endpoint.wanted,
        target=policy.target,
        load=load.message(endpoint.endpoint_id),
        reason=reason,
    )
    return Scale(endpoint.endpoint_id, replicas, why)


def why_kept(endpoint: Endpoint, load: Load | None, policy: Policy) -> str:
    """Return, for people, why an endpoint keeps the number of replicas that it has."""
    if not endpoint.wanted:
        return "it is idle; the first request wakes it"
    if load is None:
        return "its load is not known now, so the number of its replicas stays as it is"
    return _needed(endpoint, load, policy)[1]


def _needed(endpoint: Endpoint, load: Load, policy: Policy) -> tuple[int, str]:
    """Return how many replicas there should be, and why."""
    wanted, scaling = endpoint.wanted, endpoint.scaling
    if not wanted:
        return wanted, "only a request wakes it"
    up = _replicas_for(load.low, policy)
    if up > wanted and wanted < scaling.max_replicas:
        return min(up, scaling.max_replicas), (
            f"{_requests(load.low)} in flight or more are too many for "
            f"{_replicas(wanted)} at {policy.target:g} each"
        )
    if endpoint.rollout is not None and not endpoint.rollout.failure:
        return wanted, "nothing is taken away while a rollout is under way"
    if scaling.min_replicas == 0 and load.idle_for >= scaling.idle_after:
        return 0, f"there has been no request for {scaling.idle_after.total_seconds():g} s"
    if load.high is None:
        return wanted, "its load has not been known for long enough to take a replica away"
    down = max(_replicas_for(load.high, policy), scaling.min_replicas, 1)
    if down < wanted:
        return down, (
            f"{_requests(load.high)} in flight at most are few enough for "
            f"{_replicas(down)} at {policy.target:g} each"
        )
    return wanted, (
        f"{_requests(load.in_flight)} in flight now are what {_replicas(wanted)} are for "
        f"at {policy.target:g} each"
    )


def _replicas_for(in_flight: float, policy: Policy) -> int:
    return ceil(in_flight / policy.target - _TOLERANCE)


def _requests(count: float) -> str:
    return f"{count:.1f} requests"


def _replicas(count: int) -> str:
    return "1 replica" if count == 1 else f"{count} replicas"
