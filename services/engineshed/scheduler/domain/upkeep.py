"""What the scheduler asks of endpoints by itself: as plan() decided, and as their nodes demand.

The loop that makes endpoints true carries it out for real, a simulation on a copy.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Final, NamedTuple, assert_never

from engineshed.scheduler.domain import commands
from engineshed.scheduler.domain.autoscale import Scale
from engineshed.scheduler.domain.commands import (
    Autoscale,
    Command,
    Leave,
    Lose,
    Place,
    Placement,
    Report,
    Wait,
)
from engineshed.scheduler.domain.endpoint import Endpoint
from engineshed.scheduler.domain.failure import NODE_REMOVED
from engineshed.scheduler.domain.plan import Assign, Decision, Postpone
from engineshed.scheduler.domain.reclaim import Reclaim
from engineshed.scheduler.domain.replica import Replica, ReplicaState
from engineshed.scheduler.domain.view import View

# Why replicas go, as their endpoints' owners read it.
DRAINED: Final = "its node is being drained"
REMOVED: Final = "its node was taken out of use"


class Errand(NamedTuple):
    """A command for an endpoint."""

    endpoint_id: str
    command: Command


def carried_out(decision: Decision, new_id: Callable[[], str]) -> Errand:
    """Return what makes a decision true.

    Args:
        decision: what was decided.
        new_id: gives an id to each replica.

    """
    command: Command
    match decision:
        case Assign():
            placements = tuple(
                Placement(new_id(), spot.node_id, spot.gpus, spot.why) for spot in decision.spots
            )
            command = Place(placements, decision.deployment)
        case Postpone():
            command = Wait(decision.reason)
        case Reclaim():
            command = commands.Reclaim(decision.replica_ids)
        case Scale():
            command = Autoscale(decision.replicas, decision.why)
        case _:
            assert_never(decision)
    return Errand(decision.endpoint_id, command)


def evacuations(view: View) -> Sequence[Errand]:
    """Return what lets the replicas on draining nodes be replaced."""
    leaving = _by_endpoint(view.to_evacuate())
    return [Errand(one, Leave(replica_ids, DRAINED)) for one, replica_ids in leaving.items()]


def losses(view: View, node_id: str, heard_at: datetime) -> Sequence[Errand]:
    """Return what makes the replicas on a node that is not heard count as lost."""
    live = ((endpoint, replica) for endpoint, replica in view.replicas_on(node_id) if replica.live)
    lost = _by_endpoint(live)
    return [Errand(one, Lose(replica_ids, heard_at)) for one, replica_ids in lost.items()]


def removals(view: View, node_id: str, at: datetime) -> Sequence[Errand]:
    """Return what ends the replicas on a node that has left; `at`: when it was heard last."""
    return [
        Errand(
            endpoint.endpoint_id,
            Report(replica.replica_id, ReplicaState.FAILED, at, NODE_REMOVED, REMOVED),
        )
        for endpoint, replica in view.replicas_on(node_id)
    ]


def _by_endpoint(replicas: Iterable[tuple[Endpoint, Replica]]) -> Mapping[str, tuple[str, ...]]:
    """Return replicas by endpoint, all of them by id."""
    found: defaultdict[str, tuple[str, ...]] = defaultdict(tuple)
    for endpoint, replica in replicas:
        found[endpoint.endpoint_id] += (replica.replica_id,)
    return found
