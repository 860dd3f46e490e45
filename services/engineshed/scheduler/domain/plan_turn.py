"""A plan as it is kept: its inputs that are no events, and what it decided; see `PlanTurn`."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import assert_never

from engineshed.api.scheduler.v1 import plan_turn_pb2 as pb
from engineshed.api.scheduler.v1.events_pb2 import EndpointCreated
from engineshed.scheduler.domain.autoscale import Scale
from engineshed.scheduler.domain.load import Signals, load_of
from engineshed.scheduler.domain.plan import Assign, Decision, Postpone
from engineshed.scheduler.domain.reclaim import Reclaim
from engineshed.scheduler.domain.score import Policy
from engineshed.scheduler.domain.view import QueueKey


def turn_of(
    decisions: Collection[Decision],
    now: datetime,
    policy: Policy,
    queues: Collection[QueueKey],
    signals: Signals,
    newcomer: EndpointCreated | None,
) -> pb.PlanTurn:
    """Return a plan without what was known when it was made.

    Args:
        decisions: what it decided.
        now: its present.
        policy: what it was made by.
        queues: those that were planned.
        signals: what it knew beside the view.
        newcomer: with what an endpoint begins that was planned alone; None: none was.

    """
    # Each load decides for its own endpoint alone.
    scaled = [one.endpoint_id for one in decisions if isinstance(one, Scale)]
    turn = pb.PlanTurn(
        policy=pb.PlanPolicy(
            version=policy.version,
            per_gpu_left_over=policy.per_gpu_left_over,
            per_own_replica=policy.per_own_replica,
            per_failure=policy.per_failure,
            target=policy.target,
        ),
        queues=[pb.PlanQueue(region=key.region, gpu_type=key.gpu_type) for key in sorted(queues)],
        loads=[signals.loads[endpoint_id].message(endpoint_id) for endpoint_id in scaled],
        idle_replica_ids=sorted(signals.idle),
        newcomer=newcomer,
        decisions=[decision_message(decision) for decision in decisions],
    )
    turn.plan_time.FromDatetime(now)
    return turn


def node_signals(
    reports: Mapping[str, frozenset[int]], node_ids: Iterable[str]
) -> Iterator[pb.NodeSignal]:
    """Yield what the agents of some nodes have said, or that nothing of it counts any more."""
    for node_id in node_ids:
        foreign = reports.get(node_id)
        unheard = foreign is None
        yield pb.NodeSignal(node_id=node_id, foreign_gpus=sorted(foreign or ()), unheard=unheard)


def reports_of(turn: pb.PlanTurn) -> dict[str, frozenset[int]]:
    """Return what agents have said, by node; of those that are unheard nothing."""
    return {one.node_id: frozenset(one.foreign_gpus) for one in turn.nodes if not one.unheard}


def policy_of(turn: pb.PlanTurn) -> Policy:
    """Return what a plan was made by."""
    policy = turn.policy
    return Policy(
        version=policy.version,
        per_gpu_left_over=policy.per_gpu_left_over,
        per_own_replica=policy.per_own_replica,
        per_failure=policy.per_failure,
        target=policy.target,
    )


def queues_of(turn: pb.PlanTurn) -> list[QueueKey]:
    """Return the queues that were planned."""
    return [QueueKey(queue.region, queue.gpu_type) for queue in turn.queues]


def signals_of(turn: pb.PlanTurn) -> Signals:
    """Return the signals of a plan."""
    loads = {load.endpoint_id: load_of(load) for load in turn.loads}
    return Signals(loads=loads, idle=frozenset(turn.idle_replica_ids))


def time_of(turn: pb.PlanTurn) -> datetime:
    """Return the present of a plan."""
    return turn.plan_time.ToDatetime(tzinfo=UTC)


def decision_message(decision: Decision) -> pb.PlanDecision:
    """Return a decision as it is kept."""
    match decision:
        case Assign():
            spots = [
                pb.AssignedSpot(node_id=spot.node_id, gpus=spot.gpus, why=spot.why)
                for spot in decision.spots
            ]
            assign = pb.AssignDecision(
                endpoint_id=decision.endpoint_id, deployment=decision.deployment, spots=spots
            )
            return pb.PlanDecision(assign=assign)
        case Postpone():
            postpone = pb.PostponeDecision(endpoint_id=decision.endpoint_id, reason=decision.reason)
            return pb.PlanDecision(postpone=postpone)
        case Reclaim():
            reclaim = pb.ReclaimDecision(
                endpoint_id=decision.endpoint_id, replica_ids=decision.replica_ids
            )
            return pb.PlanDecision(reclaim=reclaim)
        case Scale():
            scale = pb.ScaleDecision(
                endpoint_id=decision.endpoint_id, replicas=decision.replicas, why=decision.why
            )
            return pb.PlanDecision(scale=scale)
        case _:
            assert_never(decision)
