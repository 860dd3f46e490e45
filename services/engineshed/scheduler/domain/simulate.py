"""What would become of the fleet if something were otherwise: the same decisions on a copy.

Time and agents are made up: replicas become ready and drained ones stop as soon as they are asked
to, nothing fails, and a pause after a failure is over at once.
"""

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import datetime
from itertools import count
from typing import Final, TypeAlias, assert_never

from engineshed.scheduler.domain import decide, node
from engineshed.scheduler.domain.backends import ANY
from engineshed.scheduler.domain.commands import Command, Report, Update
from engineshed.scheduler.domain.endpoint import Endpoint
from engineshed.scheduler.domain.errors import EndpointNotFoundError, NodeNotFoundError
from engineshed.scheduler.domain.load import Signals
from engineshed.scheduler.domain.node import Drain, Greet, Inventory, Node, NodeCommand, Remove
from engineshed.scheduler.domain.outcome import Before, Outcome, outcome, taken_gpus
from engineshed.scheduler.domain.plan import plan
from engineshed.scheduler.domain.replica import ReplicaState
from engineshed.scheduler.domain.score import Policy
from engineshed.scheduler.domain.upkeep import carried_out, evacuations, removals
from engineshed.scheduler.domain.view import View

# A rollout takes three for each replica; whoever needs more turns in circles.
_ROUNDS: Final = 2_000

# Made up ids look like others, and come after them where nothing else decides.
_NODE: Final = "node_ADDED{:021}"
_REPLICA: Final = "rep_ADDED{:021}"


@dataclass(frozen=True, slots=True)
class AddNodes:
    """Nodes join."""

    inventory: Inventory  # no back ends: those of the known nodes with such GPUs, else all
    count: int


@dataclass(frozen=True, slots=True)
class DrainNode:
    """A node is drained, for as long as it takes."""

    node_id: str


@dataclass(frozen=True, slots=True)
class LoseNode:
    """A node dies with all that is on it."""

    node_id: str


@dataclass(frozen=True, slots=True)
class ScaleEndpoint:
    """An endpoint gets other bounds."""

    endpoint_id: str
    min_replicas: int | None = None  # None: as it is
    max_replicas: int | None = None  # None: as it is, or the new minimum where that is more


Change: TypeAlias = AddNodes | DrainNode | LoseNode | ScaleEndpoint


@dataclass(frozen=True, slots=True)
class States:
    """All that a view is made of, at one moment."""

    endpoints: Mapping[str, Endpoint]
    nodes: Mapping[str, Node]
    reports: Mapping[str, frozenset[int]]
    idle: Set[str] = frozenset()  # opportunistic replicas that are idle enough to be reclaimed

    @classmethod
    def of(cls, view: View, idle: Set[str] = frozenset()) -> "States":
        """Return those of a view, which may change afterwards."""
        return cls(dict(view.endpoints), dict(view.nodes), dict(view.reports), idle)

    def view(self) -> View:
        """Return a new view of them."""
        return View.of(self.endpoints, self.nodes, self.reports)


def simulate(states: States, changes: Sequence[Change], policy: Policy, now: datetime) -> Outcome:
    """Return what would come of `changes`, beside what comes without them.

    Raises:
        DomainError: one of the changes is refused, as it would be in truth.

    """
    unchanged = Simulation(states, policy, now)
    before = Before(states.endpoints, taken_gpus(unchanged.view))
    settled = unchanged.settle()
    if not changes:
        return outcome(before, unchanged.view, None, now, settled=settled)
    changed = Simulation(states, policy, now)
    for change in changes:
        changed.make(change)
    settled = changed.settle() and settled
    return outcome(before, changed.view, unchanged.view, now, settled=settled)


class Simulation:
    """A fleet of its own, in which what is decided comes true at once."""

    def __init__(self, states: States, policy: Policy, now: datetime) -> None:
        self.view = states.view()
        self._policy = policy
        self.now = now
        self._signals = Signals(idle=states.idle)
        self._new_node, self._new_replica = _numbered(_NODE), _numbered(_REPLICA)
        self._added = count(1)

    def make(self, change: Change) -> None:
        """Make a change.

        Raises:
            DomainError: it is refused, as it would be in truth.

        """
        match change:
            case AddNodes():
                for _ in range(change.count):
                    self._add(change.inventory)
            case DrainNode():
                self._order(change.node_id, Drain())
            case LoseNode():
                self._order(change.node_id, Remove((), force=True))
            case ScaleEndpoint():
                self._scale(change)
            case _:
                assert_never(change)

    def settle(self) -> bool:
        """Let everything take its course; tell whether it came to an end."""
        for _ in range(_ROUNDS):
            self._take_turn()
            if self.view.changes:
                continue
            retry_at = self.view.next_retry()
            if retry_at is None:
                return True
            self.now = max(self.now, retry_at)
        return False

    def _take_turn(self) -> None:
        """Decide what there is to decide, then let the agents do what they were asked before."""
        for endpoint_id, command in evacuations(self.view):
            self._tell(endpoint_id, command)
        for node_id in self.view.left_nodes:
            for endpoint_id, command in removals(self.view, node_id, self.now):
                self._tell(endpoint_id, command)
        self.view.wake_due(self.now)
        changes = self.view.take_changes()
        for decision in plan(self.view, changes.queues, self._policy, self.now, self._signals):
            self._tell(*carried_out(decision, self._new_replica))
        for endpoint_id in sorted(changes.endpoints):
            self._serve(self.view.endpoints[endpoint_id])

    def _serve(self, endpoint: Endpoint) -> None:
        """Let the replicas of an endpoint that are heard become what they should be."""
        for replica in endpoint.occupying():
            if replica.ready or not self.view.nodes[replica.node_id].heard:
                continue
            drains = replica.state is ReplicaState.DRAINING
            state = ReplicaState.STOPPED if drains else ReplicaState.READY
            self._tell(endpoint.endpoint_id, Report(replica.replica_id, state, self.now))

    def _add(self, inventory: Inventory) -> None:
        known = [
            one.inventory.backends
            for one in self.view.nodes.values()
            if one.inventory.gpu_type == inventory.gpu_type
        ]
        offered = Inventory(
            f"added {next(self._added)}",
            inventory.region,
            inventory.gpu_type,
            inventory.gpu_count,
            inventory.gpu_memory_bytes,
            backends=inventory.backends or frozenset().union(*known) or ANY,
        )
        node_id = self._new_node()
        self._record(node_id, node.decide(None, Greet(node_id, offered)))
        self.view.note_report(node_id)

    def _order(self, node_id: str, command: NodeCommand) -> None:
        state = self.view.nodes.get(node_id)
        if state is None:
            raise NodeNotFoundError(f"there is no node {node_id}", node_id=node_id)
        self._record(node_id, node.decide(state, command))

    def _record(self, node_id: str, events: Sequence[node.NodeEvent]) -> None:
        for event in events:
            self.view.apply(f"node/{node_id}", event, self.now)

    def _scale(self, change: ScaleEndpoint) -> None:
        endpoint = self.view.endpoints.get(change.endpoint_id)
        if endpoint is None:
            raise EndpointNotFoundError.of(change.endpoint_id)
        most = change.max_replicas
        if most is None:
            most = max(endpoint.scaling.max_replicas, change.min_replicas or 0)
        update = Update(min_replicas=change.min_replicas, max_replicas=most)
        self._tell(change.endpoint_id, update)

    def _tell(self, endpoint_id: str, command: Command) -> None:
        state = self.view.endpoints[endpoint_id]
        for event in decide.decide(state, command, self.now):
            self.view.apply(f"endpoint/{endpoint_id}", event, self.now)


def _numbered(form: str) -> Callable[[], str]:
    """Return what gives ids of this form, each once."""
    numbers = count(1)
    return lambda: form.format(next(numbers))
