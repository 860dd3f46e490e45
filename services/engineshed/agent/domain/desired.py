"""What the scheduler wants of this node, and which of its wishes are out of date."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from engineshed.api.agent.v1 import agent_service_pb2 as agent_pb
from engineshed.errors import DomainError, Kind


class Goal(Enum):
    """What should become of a replica."""

    KEEP = auto()  # no desired state has come yet: leave it as it is
    RUN = auto()
    DRAIN = auto()  # finish what it has, then end
    STOP = auto()  # end now
    FORGET = auto()  # the desired state does not name it: end it and remove every trace


_GOALS: Final[Mapping[int, Goal]] = {
    agent_pb.DesiredReplica.GOAL_RUN: Goal.RUN,
    agent_pb.DesiredReplica.GOAL_DRAIN: Goal.DRAIN,
    agent_pb.DesiredReplica.GOAL_STOP: Goal.STOP,
}


class StaleDesiredStateError(DomainError):
    """The desired state is older than one that came before, or of a leader that was replaced."""

    kind = Kind.STALE
    reason = "STALE_DESIRED_STATE"


@dataclass(frozen=True, slots=True, order=True)
class Version:
    """The order of desired states: by leader, then by its count."""

    term: int = 0
    generation: int = 0


def accepted(current: Version, desired: agent_pb.DesiredState) -> Version:
    """Return the version to work to from now on; the same one may come again.

    Raises:
        StaleDesiredStateError: `desired` is older than `current`.

    """
    offered = Version(desired.term, desired.generation)
    if offered < current:
        raise StaleDesiredStateError(
            f"desired state {offered.generation} of term {offered.term} is older than "
            f"{current.generation} of term {current.term}, which this node works to",
            term=offered.term,
            generation=offered.generation,
        )
    return offered


def goal_of(desired: agent_pb.DesiredReplica | None) -> Goal:
    """Return what should become of a replica, given what a desired state says of it.

    A goal that this agent does not know, from a newer scheduler, changes nothing.
    """
    if desired is None:
        return Goal.FORGET
    return _GOALS.get(desired.goal, Goal.KEEP)
