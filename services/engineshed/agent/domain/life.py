"""One replica: where it can be in its life on this node, and what to do next.

The agent looks at a replica (`Seen`), compares it with what is wanted of it (`Goal`), does the one
`Action` that this gives, and looks again. So it does not matter what it missed, or when it died.
"""

from dataclasses import dataclass
from enum import Enum, auto
from typing import Final, TypeAlias, assert_never

from engineshed.agent.domain.desired import Goal
from engineshed.api.replica.v1 import replica_service_pb2 as replica_pb

MISSED_POLLS: Final = 3
"""So many unanswered questions in a row, each with a deadline of ten seconds, end a front."""
START_SECONDS: Final = 180.0
"""How long a front may take until it listens; it only imports its libraries then."""
EXIT_SECONDS: Final = 60.0
"""How long a front that has failed or stopped may take to be gone."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a replica cannot serve."""

    code: str
    """UPPER_SNAKE, e.g. REPLICA_CRASHED."""
    reason: str
    """For people."""
    retryable: bool
    """Whether another try may end otherwise."""
    evidence: tuple[str, ...] = ()
    """The last lines of the log of what failed, where somebody kept them."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a replica ended. Nothing of it runs any more."""

    failure: Failure | None = None
    """None: it was stopped, as asked."""

    @property
    def name(self) -> str:
        """A word for logs: the failure's code, or STOPPED."""
        return self.failure.code if self.failure else "STOPPED"


STOPPED: Final = Outcome()
CONDEMNING: Final = frozenset({"ENGINE_WRONG_GPU", "ENGINE_VERSION_MISMATCH"})
"""Failures after which an engine, though whole, must be built anew."""


# --- where a replica can be -------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Idle:
    """Nothing was done for it yet."""


@dataclass(frozen=True, slots=True)
class Preparing:
    """Its checkpoint is being fetched, or its engine built."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """Its engine is there; it can be started."""


@dataclass(frozen=True, slots=True)
class Unpreparable:
    """Its checkpoint or its engine cannot be had."""

    failure: Failure


@dataclass(frozen=True, slots=True)
class Running:
    """Its front runs."""

    phase: replica_pb.Phase.ValueType = replica_pb.PHASE_UNSPECIFIED
    """What the front says of itself; UNSPECIFIED until it said anything."""
    in_flight: int | None = None
    """Requests it has, by its last answer; None before its first, as when it is adopted."""
    missed_polls: int = 0
    """How many questions in a row it left unanswered."""
    silent_seconds: float = 0.0
    """How long it has run without listening, or has been failed or stopped without ending."""
    draining_seconds: float = 0.0
    """Since when it is to drain; 0 when it is not."""
    failure: Failure | None = None
    """What the front says of its failure."""


@dataclass(frozen=True, slots=True)
class Gone:
    """Its front was started and has ended."""

    phase: replica_pb.Phase.ValueType
    """The last that the front said of itself."""
    failure: Failure | None = None
    """What the front said of its failure."""
    intended: Outcome | None = None
    """What the agent had in mind when it ended the front; None: it did not."""
    rebooted: bool = False
    """Whether the host was started anew since."""
    watched: bool = True
    """Whether an agent was there when it ended."""
    exit: str = ""
    """How the process ended, in words; empty when nobody saw it."""


@dataclass(frozen=True, slots=True)
class Ended:
    """Nothing of it runs, and how that came is recorded."""

    outcome: Outcome


Seen: TypeAlias = Idle | Preparing | Prepared | Unpreparable | Running | Gone | Ended


# --- what can be done -------------------------------------------------------------------------


class Step(Enum):
    """An action without parameters."""

    WAIT = auto()  # until something changes
    PREPARE = auto()  # fetch, then build
    GIVE_UP_PREPARING = auto()
    START = auto()
    ASK_TO_DRAIN = auto()
    REMOVE = auto()  # all that is left on disk


@dataclass(frozen=True, slots=True)
class End:
    """End the front with all its processes: ask, then kill."""

    intended: Outcome
    ask: bool = True
    """False: kill at once, it does not listen."""


@dataclass(frozen=True, slots=True)
class Conclude:
    """Make sure that no process is left, then record how it ended."""

    outcome: Outcome


Action: TypeAlias = Step | End | Conclude


def next_action(goal: Goal, seen: Seen, drain_timeout: float) -> Action:
    """Return what to do with a replica that is seen like this and of which `goal` is wanted.

    Args:
        goal: what is wanted.
        seen: what is the case.
        drain_timeout: seconds after which requests in flight are cut off.

    """
    wanted = goal in (Goal.RUN, Goal.KEEP)
    match seen:
        case Idle():
            if not wanted:
                return Conclude(STOPPED)
            return Step.PREPARE if goal is Goal.RUN else Step.WAIT
        case Preparing():
            return Step.WAIT if wanted else Step.GIVE_UP_PREPARING
        case Prepared():
            if not wanted:
                return Conclude(STOPPED)
            return Step.START if goal is Goal.RUN else Step.WAIT
        case Unpreparable(failure):
            return Conclude(Outcome(failure))
        case Running():
            return _while_running(goal, seen, drain_timeout)
        case Gone():
            return Conclude(_outcome(seen))
        case Ended():
            return Step.REMOVE if goal is Goal.FORGET else Step.WAIT
        case _:
            assert_never(seen)


def _while_running(goal: Goal, seen: Running, drain_timeout: float) -> Action:
    match goal:
        case Goal.KEEP:
            return Step.WAIT
        case Goal.STOP | Goal.FORGET:
            return End(STOPPED)
        case Goal.DRAIN if _is_drained(seen) or seen.draining_seconds >= drain_timeout:
            return End(STOPPED)
        case Goal.RUN | Goal.DRAIN:
            if failure := _hanging(seen):
                return End(Outcome(failure), ask=False)
            if goal is Goal.DRAIN and seen.phase == replica_pb.PHASE_READY:
                return Step.ASK_TO_DRAIN
            return Step.WAIT
        case _:
            assert_never(goal)


def _is_drained(seen: Running) -> bool:
    """Tell whether it has no request; while it was not ready yet, it never had one."""
    if seen.phase == replica_pb.PHASE_DRAINING:
        return seen.in_flight == 0
    return seen.phase != replica_pb.PHASE_READY


def _hanging(seen: Running) -> Failure | None:
    if seen.missed_polls >= MISSED_POLLS:
        return Failure(
            "FRONT_UNRESPONSIVE",
            f"the replica's front runs, but left {seen.missed_polls} questions in a row "
            "unanswered; it was killed",
            retryable=True,
        )
    ending = seen.phase in (replica_pb.PHASE_FAILED, replica_pb.PHASE_STOPPED)
    if seen.silent_seconds < (EXIT_SECONDS if ending else START_SECONDS):
        return None
    return seen.failure or Failure(
        "FRONT_UNRESPONSIVE",
        f"the replica's front {'did not end' if ending else 'did not listen'} within "
        f"{seen.silent_seconds:.0f} s; it was killed",
        retryable=True,
    )


def _outcome(seen: Gone) -> Outcome:
    if seen.intended is not None:
        return seen.intended
    if seen.failure is not None:
        return Outcome(seen.failure)
    if host := _host_fault(seen):
        return Outcome(Failure("NODE_RESTARTED", f"the replica was ended: {host}", retryable=True))
    how = seen.exit or "its process is gone"
    return Outcome(
        Failure("REPLICA_CRASHED", f"the replica's front ended by itself: {how}", retryable=True)
    )


def _host_fault(seen: Gone) -> str:
    """Return how the host, not the replica, brought the end about; empty when it did not.

    Who stops or kills everything on a host at once ends the agent, too. If that counted as a crash,
    a few restarts of a host would pass for a crash loop.
    """
    if seen.rebooted:
        return "the host was started anew"
    if seen.phase in (replica_pb.PHASE_DRAINING, replica_pb.PHASE_STOPPED):
        return "somebody else stopped it"
    if not seen.watched:
        return "its host's agent was not running then"
    return ""
