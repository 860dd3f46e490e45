"""Random lives of a fleet: whatever is asked, reported or lost, these things stay true."""

from collections import Counter
from datetime import timedelta

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from tests.unit.scheduler.world import REGISTERED, REGISTERING, World

from engineshed.errors import DomainError
from engineshed.scheduler.domain.backends import can_serve
from engineshed.scheduler.domain.commands import (
    Command,
    Delete,
    Leave,
    Redeployment,
    Restart,
    Rollback,
    Stop,
    Update,
    Wake,
)
from engineshed.scheduler.domain.consequences import waits
from engineshed.scheduler.domain.endpoint import SURGE, Endpoint, EndpointState, Strategy
from engineshed.scheduler.domain.errors import NothingToRollBackError, WrongNodeStateError
from engineshed.scheduler.domain.load import Load, Signals
from engineshed.scheduler.domain.node import (
    Cordon,
    Drain,
    Node,
    NodeCommand,
    NodeState,
    Uncordon,
)
from engineshed.scheduler.domain.plan import Decision, plan
from engineshed.scheduler.domain.replica import Checkpoint, Replica, ReplicaState
from engineshed.scheduler.domain.scaling import Scaling
from engineshed.scheduler.domain.score import Policy
from engineshed.scheduler.domain.view import Changes, QueueKey, View, queue_key

E = EndpointState
S = ReplicaState

index = st.integers(0, 7)

_REDEPLOYMENTS = (
    Redeployment(checkpoint=Checkpoint("ckpt_2", "sha256:2", "checkpoints/ckpt_2")),
    Redeployment(checkpoint=REGISTERED),
    Redeployment(gpu_count=2, strategy=Strategy.RECREATE),
    Redeployment(gpu_count=1, gpu_type="h100-sxm"),
    Redeployment(gpu_type="cpu"),
    Redeployment(max_context=512),
)


class Fleet(RuleBasedStateMachine):
    """A fleet under random commands, reports and losses."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.planned = False

    # What happens.

    @rule(
        gpus=st.sampled_from([1, 2, 4]),
        gpu_type=st.sampled_from(["cpu", "cpu", "h100-sxm"]),
        backends=st.sampled_from([{"torch"}, {"torch", "tensorrt_llm"}, {"python"}]),
    )
    def node_joins(self, gpus: int, gpu_type: str, backends: set[str]) -> None:
        if len(self.world.view.nodes) < 4:
            self.world.join(gpus, gpu_type=gpu_type, backends=frozenset(backends))

    @rule(
        gpus=st.sampled_from([1, 1, 2, 4]),
        replicas=st.sampled_from([0, 1, 1, 2]),
        more=st.sampled_from([0, 0, 1, 2]),
        checkpoint=st.sampled_from([REGISTERED, REGISTERED, REGISTERED, REGISTERING]),
    )
    def create(self, gpus: int, replicas: int, more: int, checkpoint: Checkpoint) -> None:
        if len(self.world.view.endpoints) < 8:
            scaling = Scaling(replicas, max(1, replicas + more))
            self.world.create(gpus, scaling=scaling, checkpoint=checkpoint)

    @precondition(lambda self: self.world.view.endpoints)
    @rule(
        index=index,
        command=st.sampled_from(
            [
                Stop(),
                Restart(),
                Restart(),
                Delete(),
                Update(min_replicas=0),
                Update(min_replicas=1),
                Wake(),
                Update(min_replicas=3, max_replicas=3),
                Update(enabled=False),
                Update(enabled=True, min_replicas=2, max_replicas=2),
            ]
        ),
    )
    def owner_asks(self, index: int, command: Command) -> None:
        endpoints = list(self.world.view.endpoints.values())
        endpoint = endpoints[index % len(endpoints)]
        try:
            self.world.tell(endpoint.endpoint_id, command)
        except DomainError:
            assert endpoint.ended, "only what can never serve again refuses these"

    @precondition(lambda self: self.world.view.endpoints)
    @rule(
        index=index,
        command=st.sampled_from(
            [
                *(Update(redeployment=one) for one in _REDEPLOYMENTS),
                Rollback(),
            ]
        ),
    )
    def owner_redeploys(self, index: int, command: Update | Rollback) -> None:
        endpoints = list(self.world.view.endpoints.values())
        before = endpoints[index % len(endpoints)]
        try:
            self.world.tell(before.endpoint_id, command)
        except NothingToRollBackError:
            assert before.rollout is None
            return
        except DomainError:
            assert before.ended
            return
        after = self.world.endpoint(before.endpoint_id)
        if after.rollout is None or after.rollout.strategy is Strategy.SURGE:
            assert after.ready >= min(before.ready, before.wanted), "what serves goes on serving"

    @precondition(lambda self: self.world.view.endpoints)
    @rule(
        index=index,
        low=st.integers(0, 40),
        more=st.integers(0, 20),
        idle_for=st.sampled_from([0, 0, 60, 301]),
    )
    def load_is_told(self, index: int, low: int, more: int, idle_for: int) -> None:
        endpoints = list(self.world.view.endpoints.values())
        before = endpoints[index % len(endpoints)]
        load = Load(low, low, low + more, timedelta(seconds=idle_for))
        signals = Signals({before.endpoint_id: load})
        decisions = plan(self.world.view, (), Policy(), self.world.now, signals)
        self.world.carry_out(decisions)
        after = self.world.endpoint(before.endpoint_id)
        scaling = after.scaling
        if after.wanted or after.status.state is E.IDLE:
            assert scaling.min_replicas <= after.wanted <= scaling.max_replicas
        assert after.ready >= min(before.ready, after.wanted), "no more go than have to"
        again = plan(self.world.view, (), Policy(), self.world.now, signals)
        assert again == [], "the same load never takes back what it has asked for"

    @precondition(lambda self: self.occupying())
    @rule(index=index)
    def replica_is_to_leave(self, index: int) -> None:
        endpoint, replica = self.pick(index)
        self.world.tell(endpoint.endpoint_id, Leave((replica.replica_id,), "its node drains"))
        after = self.world.endpoint(endpoint.endpoint_id)
        assert after.ready >= min(endpoint.ready, endpoint.wanted), "it serves until replaced"

    @precondition(lambda self: self.occupying())
    @rule(
        index=index,
        state=st.sampled_from([S.FETCHING, S.LOADING, S.READY, S.READY, S.READY]),
        age=st.integers(0, 100),
    )
    def agent_reports_progress(self, index: int, state: ReplicaState, age: int) -> None:
        endpoint, replica = self.pick(index)
        if self.is_heard(replica):
            self.world.report(endpoint.endpoint_id, replica.replica_id, state, age=age)

    @precondition(lambda self: self.occupying())
    @rule(
        index=index,
        code=st.sampled_from(["TRITON_DIED", "NODE_RESTARTED"]),
        retryable=st.booleans(),
    )
    def replica_fails(self, index: int, code: str, retryable: bool) -> None:
        endpoint, replica = self.pick(index)
        if not self.is_heard(replica):
            return
        healthy = {
            one.replica_id
            for one in endpoint.replicas
            if one.routable and one.replica_id != replica.replica_id
        }
        self.world.report(
            endpoint.endpoint_id, replica.replica_id, S.FAILED, code=code, retryable=retryable
        )
        after = self.world.endpoint(endpoint.endpoint_id)
        assert healthy <= {one.replica_id for one in after.replicas if one.routable}
        assert not (healthy and after.status.state is E.FAILED)
        if endpoint.rollout and replica.deployment == endpoint.deployment:
            assert after.status.state is not E.FAILED, "a rollout fails before its endpoint does"

    @rule()
    def agents_finish_draining(self) -> None:
        for endpoint, replica in self.occupying():
            if replica.state is S.DRAINING and self.is_heard(replica):
                self.world.report(endpoint.endpoint_id, replica.replica_id, S.STOPPED)

    @precondition(lambda self: self.world.view.nodes)
    @rule(index=index)
    def node_falls_silent(self, index: int) -> None:
        self.world.lose(self.node(index).node_id)

    @precondition(lambda self: self.world.view.nodes)
    @rule(index=index)
    def node_is_heard(self, index: int) -> None:
        self.world.hear(self.node(index).node_id)

    @precondition(lambda self: self.world.view.nodes)
    @rule(index=index, command=st.sampled_from([Cordon(), Drain(), Uncordon(), Uncordon()]))
    def operator_asks(self, index: int, command: NodeCommand) -> None:
        node = self.node(index)
        try:
            self.world.order(node.node_id, command)
        except WrongNodeStateError:
            assert node.state is NodeState.LEFT

    @precondition(lambda self: self.world.view.nodes)
    @rule(index=index)
    def node_is_removed(self, index: int) -> None:
        self.world.remove(self.node(index).node_id)

    @precondition(lambda self: self.world.view.nodes)
    @rule(index=index)
    def node_that_left_joins_again(self, index: int) -> None:
        node = self.node(index)
        if node.state is NodeState.LEFT:
            offer = node.inventory
            self.world.join(
                offer.gpu_count,
                gpu_type=offer.gpu_type,
                backends=offer.backends,
                node_id=node.node_id,
            )

    @rule(seconds=st.sampled_from([1, 5, 61, 700]))
    def time_passes(self, seconds: int) -> None:
        self.world.sleep(seconds)

    @rule(busy=st.integers(0, 3))
    def scheduler_plans(self, busy: int) -> None:
        world = self.world
        world.evacuate()
        world.view.wake_due(world.now)
        changed = world.view.take_changes().queues
        # Whatever is not busy may be reclaimed; of the rest a plan does not know.
        extra = [one for each in world.view.endpoints.values() for one in each.opportunistic]
        signals = Signals(idle=frozenset(one.replica_id for one in extra[busy:]))
        queues = world.view.queues if signals.idle else changed
        full = plan(world.view, [*world.view.queues, *changed], Policy(), world.now, signals)
        decisions = plan(world.view, {*queues, *changed}, Policy(), world.now, signals)
        assert decisions == _unique(full)
        reserved = self.reserved()
        world.carry_out(decisions)
        assert reserved <= self.reserved(), "nobody's reserved replica makes room"
        self.require_nothing_left_to_decide(signals)

    # What stays true.

    @invariant()
    def no_gpu_is_held_twice(self) -> None:
        held = Counter(
            (replica.node_id, gpu) for _, replica in self.occupying() for gpu in replica.gpus
        )
        assert all(count == 1 for count in held.values()), held

    @invariant()
    def nothing_is_on_a_node_that_has_left(self) -> None:
        for _, replica in self.occupying():
            assert self.world.view.nodes[replica.node_id].state is not NodeState.LEFT

    @invariant()
    def statuses_are_true(self) -> None:
        for endpoint in self.world.view.endpoints.values():
            assert _is_true(endpoint), endpoint

    @invariant()
    def nothing_surplus_runs(self) -> None:
        for endpoint in self.world.view.endpoints.values():
            live = [replica for replica in endpoint.replicas if replica.live]
            assert sum(map(endpoint.current, live)) <= endpoint.wanted
            assert len(live) <= endpoint.wanted + SURGE * bool(endpoint.wanted)

    @invariant()
    def rollouts_end(self) -> None:
        """Where all that is wanted serves, nothing is left to replace."""
        for endpoint in self.world.view.endpoints.values():
            current = [one for one in endpoint.replicas if endpoint.current(one) and one.ready]
            if endpoint.wanted and len(current) >= endpoint.wanted:
                assert not [one for one in endpoint.replicas if one.live and one not in current]
                if not any(one not in current for one in endpoint.occupying()):
                    assert endpoint.rollout is None or endpoint.rollout.failure

    @invariant()
    def the_indexes_are_those_of_the_log(self) -> None:
        rebuilt = View()
        for stream, event, at in self.world.log:
            rebuilt.apply(stream, event, at)
        for node in rebuilt.nodes.values():
            if node.heard:
                rebuilt.note_report(node.node_id)
        assert _indexes(self.world.view) == _indexes(rebuilt)

    @invariant()
    def a_view_of_the_same_states_has_the_same_indexes(self) -> None:
        view = self.world.view
        rebuilt = _indexes(View.of(view.endpoints, view.nodes, view.reports))
        kept = _indexes(view)
        for indexes in (rebuilt, kept):
            indexes["_stopped"] = sorted(view.stopped)  # when is not told by a state
        assert rebuilt == kept

    @invariant()
    def time_goes_on_within_a_replica(self) -> None:
        latest: dict[str, object] = {}
        for _, event, _ in self.world.log:
            if hasattr(event, "effective_at"):
                at = (event.effective_at.seconds, event.effective_at.nanos)
                assert latest.get(event.replica_id, at) <= at  # type: ignore[operator, attr-defined]  # pairs of integers
                latest[event.replica_id] = at  # type: ignore[attr-defined]  # replica events have both

    def require_nothing_left_to_decide(self, signals: Signals) -> None:
        """Whoever is due and fits on a node that is not kept has been placed there."""
        view = self.world.view
        assert plan(view, view.queues, Policy(), self.world.now, signals) == []
        heads: set[QueueKey] = set()
        for key in view.queues:
            for endpoint in view.queue(key):
                if endpoint.retry_at is not None and endpoint.retry_at > self.world.now:
                    continue
                fitting = [node for node in view.nodes.values() if self.fits(endpoint, node)]
                if endpoint.missing_reserved and key not in heads:
                    assert not fitting, "the head of the queue is passed by nobody"
                    heads.add(key)
                assert len(fitting) <= 1, "one node at most is kept for the head"
                if waits(endpoint):
                    assert endpoint.status.state is E.QUEUED
                    assert endpoint.status.reason.startswith("waiting for")

    # Looking around.

    def occupying(self) -> list[tuple[Endpoint, Replica]]:
        return [
            (endpoint, replica)
            for endpoint in self.world.view.endpoints.values()
            for replica in endpoint.occupying()
        ]

    def reserved(self) -> set[str]:
        """Return the live replicas that are reserved for their endpoints."""
        return {
            replica.replica_id
            for endpoint, replica in self.occupying()
            if replica.live and endpoint.capacity_of(replica) == "reserved"
        }

    def pick(self, index: int) -> tuple[Endpoint, Replica]:
        occupying = self.occupying()
        return occupying[index % len(occupying)]

    def node(self, index: int) -> Node:
        nodes = list(self.world.view.nodes.values())
        return nodes[index % len(nodes)]

    def is_heard(self, replica: Replica) -> bool:
        return self.world.view.nodes[replica.node_id].heard

    def fits(self, endpoint: Endpoint, node: Node) -> bool:
        inventory = node.inventory
        taken = {
            gpu for _, one in self.occupying() if one.node_id == node.node_id for gpu in one.gpus
        }
        return (
            node.state is NodeState.JOINED
            and queue_key(endpoint) == (inventory.region, inventory.gpu_type)
            and can_serve(inventory.backends, endpoint.placing.serving)
            and inventory.gpu_count - len(taken) >= endpoint.placing.gpu_count
        )


def _unique(decisions: list[Decision]) -> list[Decision]:
    """A queue that is named twice is planned twice; decisions are the same both times."""
    return [one for number, one in enumerate(decisions) if one not in decisions[:number]]


def _is_true(endpoint: Endpoint) -> bool:
    """Tell whether the status is what the design's table says of these replicas."""
    ready = sum(replica.state is S.READY for replica in endpoint.replicas)
    placed = any(replica.live for replica in endpoint.replicas)
    status = endpoint.status
    match status.state:
        case E.QUEUED:
            return endpoint.enabled and not placed
        case E.PROVISIONING:
            return endpoint.enabled and ready == 0
        case E.RUNNING:
            degraded = ready < endpoint.scaling.min_replicas
            return endpoint.enabled and ready > 0 and status.degraded == degraded
        case E.IDLE:
            return endpoint.enabled and not placed and endpoint.scaling.min_replicas == 0
        case E.STOPPING:
            return not endpoint.enabled and endpoint.holds_gpus and not placed
        case E.STOPPED:
            return not endpoint.enabled and not endpoint.holds_gpus
        case E.FAILED | E.TERMINATED:
            return not placed
        case _:
            return False


def _indexes(view: View) -> dict[str, object]:
    indexes = dict(vars(view))
    indexes["changes"] = Changes()
    indexes["told"] = set()
    indexes["_retries"] = None  # what was woken once is not woken again
    indexes["_pools"] = {kind: vars(pool) for kind, pool in view._pools.items()}
    for name in ("_holders", "_replicas_on"):
        indexes[name] = {key: value for key, value in indexes[name].items() if value}
    return indexes


TestFleet = Fleet.TestCase
TestFleet.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
