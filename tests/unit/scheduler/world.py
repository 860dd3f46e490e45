"""A scheduler without a scheduler: commands in, facts out, on a clock that only the test moves."""

from collections.abc import Sequence, Set
from datetime import UTC, datetime, timedelta
from itertools import count

from engineshed.api.scheduler.v1 import events_pb2 as pb
from engineshed.scheduler.domain import commands, decide, node
from engineshed.scheduler.domain.autoscale import Scale
from engineshed.scheduler.domain.commands import (
    Autoscale,
    Command,
    Create,
    Leave,
    Lose,
    Place,
    Placement,
    Report,
    Wait,
    Wake,
)
from engineshed.scheduler.domain.endpoint import Endpoint, EndpointEvent
from engineshed.scheduler.domain.failure import NODE_REMOVED
from engineshed.scheduler.domain.load import Signals
from engineshed.scheduler.domain.node import (
    Greet,
    Hear,
    Inventory,
    Miss,
    NodeCommand,
    NodeState,
    Remove,
)
from engineshed.scheduler.domain.plan import Assign, Decision, plan
from engineshed.scheduler.domain.reclaim import Reclaim
from engineshed.scheduler.domain.replica import Checkpoint, Replica, ReplicaState, Serving
from engineshed.scheduler.domain.scaling import Scaling
from engineshed.scheduler.domain.score import Policy
from engineshed.scheduler.domain.view import QueueKey, View

START = datetime(2026, 1, 1, tzinfo=UTC)
REGISTERED = Checkpoint("ckpt_1", "sha256:1", "checkpoints/ckpt_1")
REGISTERING = Checkpoint("ckpt_1", "", "checkpoints/ckpt_1")

PLAIN = Serving()

S = ReplicaState


class World:
    """A view that is kept by events, and everything that makes them."""

    def __init__(self) -> None:
        self.view = View()
        self.now = START
        self.log: list[tuple[str, object, datetime]] = []
        self._numbers = count(1)

    # The clock and the log.

    def sleep(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    def record(self, stream: str, events: Sequence[object]) -> None:
        for event in events:
            self.log.append((stream, event, self.now))
            self.view.apply(stream, event, self.now)

    # Endpoints.

    def create(
        self,
        gpus: int = 1,
        replicas: int = 1,
        *,
        gpu_type: str = "cpu",
        region: str = "local",
        checkpoint: Checkpoint = REGISTERED,
        serving: Serving = PLAIN,
        scaling: Scaling | None = None,
    ) -> str:
        endpoint_id = f"ep_{next(self._numbers):04}"
        command = Create(
            endpoint_id=endpoint_id,
            org_id="org_1",
            name="bot",
            description="",
            model_name="custom",
            flavor_name="base",
            checkpoint=checkpoint,
            gpu_type=gpu_type,
            gpu_count=gpus,
            region=region,
            scaling=scaling or Scaling(replicas, replicas),
            serving=serving,
            routing_key=f"bot-{endpoint_id}",
        )
        self.tell(endpoint_id, command)
        return endpoint_id

    def tell(self, endpoint_id: str, command: Command) -> list[EndpointEvent]:
        state = self.view.endpoints.get(endpoint_id)
        events = decide.decide(state, command, self.now)
        self.record(f"endpoint/{endpoint_id}", events)
        return events

    def endpoint(self, endpoint_id: str) -> Endpoint:
        return self.view.endpoints[endpoint_id]

    def live(self, endpoint_id: str) -> list[Replica]:
        return [replica for replica in self.endpoint(endpoint_id).replicas if replica.live]

    def running(self, gpus: int = 1, replicas: int = 1) -> str:
        """Return an endpoint whose replicas are all ready."""
        endpoint_id = self.create(gpus, replicas)
        self.plan()
        self.all_ready(endpoint_id)
        assert self.endpoint(endpoint_id).ready == replicas
        return endpoint_id

    def all_ready(self, endpoint_id: str) -> None:
        """Let all live replicas of an endpoint be ready."""
        for replica in self.live(endpoint_id):
            self.report(endpoint_id, replica.replica_id, S.READY)

    def wake(self, endpoint_id: str) -> None:
        """Let a request come to an idle endpoint."""
        self.tell(endpoint_id, Wake())

    def grow(self, endpoint_id: str, *, ready: bool = True) -> Replica:
        """Let load add a replica, and return it."""
        wanted = self.endpoint(endpoint_id).wanted
        self.tell(endpoint_id, Autoscale(wanted + 1, pb.ScalingDecision(replicas=wanted)))
        self.plan()
        if ready:
            self.all_ready(endpoint_id)
        return self.live(endpoint_id)[-1]

    # Agents.

    def report(
        self,
        endpoint_id: str,
        replica_id: str,
        state: ReplicaState,
        *,
        age: float = 0,
        code: str = "",
        retryable: bool = True,
    ) -> list[EndpointEvent]:
        url = f"http://{replica_id}" if state is S.READY else ""
        since = self.now - timedelta(seconds=age)
        report = Report(replica_id, state, since, code, "because", retryable, url=url)
        return self.tell(endpoint_id, report)

    def crash(
        self, endpoint_id: str, *, code: str = "TRITON_DIED", retryable: bool = True
    ) -> list[EndpointEvent]:
        """Let the endpoint's newest live replica fail."""
        replica_id = self.live(endpoint_id)[-1].replica_id
        return self.report(endpoint_id, replica_id, S.FAILED, code=code, retryable=retryable)

    def finish_draining(self, endpoint_id: str) -> None:
        """Let agents stop what drains."""
        for replica in self.endpoint(endpoint_id).replicas:
            if replica.state is S.DRAINING:
                self.report(endpoint_id, replica.replica_id, S.STOPPED)

    def join(
        self,
        gpus: int = 4,
        *,
        gpu_type: str = "cpu",
        region: str = "local",
        backends: frozenset[str] = frozenset({"torch"}),
        node_id: str = "",
    ) -> str:
        node_id = node_id or f"node_{next(self._numbers):04}"
        inventory = Inventory("host", region, gpu_type, gpus, backends=backends)
        events = node.decide(self.view.nodes.get(node_id), Greet(node_id, inventory))
        self.record(f"node/{node_id}", events)
        self.view.note_report(node_id)
        return node_id

    def lose(self, node_id: str) -> None:
        """Let a node's lease run out, with all that follows for its replicas."""
        known = self.view.nodes[node_id]
        if known.state is NodeState.LOST:
            return
        self.record(f"node/{node_id}", node.decide(known, Miss(self.now)))
        for endpoint, replica in list(self.view.replicas_on(node_id)):
            self.tell(endpoint.endpoint_id, Lose((replica.replica_id,), self.now))

    def hear(self, node_id: str) -> None:
        self.record(f"node/{node_id}", node.decide(self.view.nodes[node_id], Hear()))
        self.view.note_report(node_id)

    # Operators.

    def order(self, node_id: str, command: NodeCommand) -> list[node.NodeEvent]:
        events = node.decide(self.view.nodes[node_id], command)
        self.record(f"node/{node_id}", events)
        return events

    def evacuate(self) -> None:
        """Let what is on draining nodes be replaced, as the reconciler does."""
        for endpoint, replica in list(self.view.to_evacuate()):
            self.tell(endpoint.endpoint_id, Leave((replica.replica_id,), "being drained"))

    def remove(self, node_id: str) -> None:
        """Take a node out by force, with all that follows for its replicas."""
        self.order(node_id, Remove((), force=True))
        for endpoint, replica in list(self.view.replicas_on(node_id)):
            self.report(endpoint.endpoint_id, replica.replica_id, S.FAILED, code=NODE_REMOVED)

    # The planner.

    def decide(self, idle: Set[str] = frozenset()) -> list[Decision]:
        self.view.wake_due(self.now)
        return plan(self.view, self.view.queues, Policy(), self.now, Signals(idle=idle))

    def plan(self, idle: Set[str] = frozenset()) -> list[Decision]:
        """Plan, and carry out what is decided; `idle` replicas may be reclaimed."""
        decisions = self.decide(idle)
        self.carry_out(decisions)
        return decisions

    def plan_incrementally(self) -> list[Decision]:
        """Do the same for those queues only in which something has changed."""
        self.view.wake_due(self.now)
        dirty = self.view.take_changes().queues
        decisions = plan(self.view, dirty, Policy(), self.now)
        self.carry_out(decisions)
        return decisions

    def carry_out(self, decisions: Sequence[Decision]) -> None:
        for decision in decisions:
            if isinstance(decision, Scale):
                self.tell(decision.endpoint_id, Autoscale(decision.replicas, decision.why))
            elif isinstance(decision, Reclaim):
                self.tell(decision.endpoint_id, commands.Reclaim(decision.replica_ids))
            elif isinstance(decision, Assign):
                placements = tuple(
                    Placement(f"rep_{next(self._numbers):04}", spot.node_id, spot.gpus, spot.why)
                    for spot in decision.spots
                )
                self.tell(decision.endpoint_id, Place(placements, decision.deployment))
            else:
                self.tell(decision.endpoint_id, Wait(decision.reason))

    def nodes_of(self, endpoint_id: str) -> list[str]:
        return [replica.node_id for replica in self.live(endpoint_id)]


def names(events: Sequence[object]) -> list[str]:
    """Return what happened, by name."""
    return [type(event).__name__ for event in events]


def last(events: Sequence[object], kind: type[pb.EndpointFailed]) -> pb.EndpointFailed:
    """Return the last event of a kind."""
    return [event for event in events if isinstance(event, kind)][-1]


CPU_QUEUE = QueueKey("local", "cpu")
