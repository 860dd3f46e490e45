"""plan() decides exactly what a planner decides that has no index and looks at everything."""

from collections import Counter
from collections.abc import Iterator

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant
from tests.unit.scheduler.test_fleet_properties import Fleet
from tests.unit.scheduler.world import World

from engineshed.scheduler.domain.backends import fitting
from engineshed.scheduler.domain.commands import Delete
from engineshed.scheduler.domain.consequences import waits
from engineshed.scheduler.domain.endpoint import Endpoint, EndpointState, Status
from engineshed.scheduler.domain.filters import why_waiting
from engineshed.scheduler.domain.node import Node
from engineshed.scheduler.domain.plan import Assign, Decision, Postpone, plan
from engineshed.scheduler.domain.replica import ReplicaState
from engineshed.scheduler.domain.room import Room
from engineshed.scheduler.domain.score import SHOWN, Policy, Preferences
from engineshed.scheduler.domain.view import QueueKey, queue_key

POLICY = Policy()

Candidates = tuple[tuple[str, float], ...]
Spots = tuple[tuple[str, tuple[int, ...], Candidates], ...]
Plain = tuple[str, Spots | str]  # an endpoint, and what it gets or waits for


def plain(decisions: list[Decision]) -> list[Plain]:
    """Return decisions as plain values, without the counts of what was turned away."""
    plainly: list[Plain] = []
    for one in decisions:
        assert isinstance(one, Assign | Postpone), "nothing else is decided without signals"
        answer = one.reason if isinstance(one, Postpone) else _spots(one)
        plainly.append((one.endpoint_id, answer))
    return plainly


def _spots(assign: Assign) -> Spots:
    return tuple(
        (spot.node_id, spot.gpus, tuple((one.node_id, one.score) for one in spot.why.candidates))
        for spot in assign.spots
    )


class Reference:
    """One queue, planned the slow way."""

    def __init__(self, world: World, key: QueueKey) -> None:
        self.world = world
        self.key = key
        unreported = set(world.view.unreported())
        self.nodes = [
            node
            for node in world.view.nodes.values()
            if node.takes_replicas
            and node.node_id not in unreported
            and key == (node.inventory.region, node.inventory.gpu_type)
        ]
        self.free = {node.node_id: self._free(node) for node in self.nodes}
        self.kept: tuple[str, int, int] | None = None  # node, what the head needs, released soon

    def decide(self) -> Iterator[Plain]:
        waiting = [
            endpoint
            for endpoint in self.world.view.endpoints.values()
            if endpoint.missing and queue_key(endpoint) == self.key
        ]
        due = [
            endpoint
            for endpoint in sorted(waiting, key=lambda one: (one.arrived_at, one.endpoint_id))
            if endpoint.retry_at is None or endpoint.retry_at <= self.world.now
        ]
        first = {one.endpoint_id: list(self._serve(one)) for one in due}
        for endpoint in due:
            more = list(self._stretch(endpoint, first[endpoint.endpoint_id]))
            first[endpoint.endpoint_id] = more
        # What is given in the second round to whoever had nothing in the first comes last.
        served = [one for one in due if one.missing_reserved]
        late = [one for one in due if not one.missing_reserved]
        for endpoint in (*served, *late):
            yield from first[endpoint.endpoint_id]

    def _serve(self, endpoint: Endpoint) -> Iterator[Plain]:
        """Give an endpoint what is reserved for it, and keep a node if it does not fit."""
        reserved = endpoint.missing_reserved
        if not reserved:
            return
        spots = tuple(self._spots(endpoint, reserved, Counter()))
        if spots:
            yield endpoint.endpoint_id, spots
        if len(spots) == reserved:
            return
        if self.kept is None:
            self.kept = self._nominate(endpoint)
        yield from self._postponed(endpoint, spots)

    def _stretch(self, endpoint: Endpoint, before: list[Plain]) -> Iterator[Plain]:
        """Give an endpoint what is left, for what its load adds."""
        more = endpoint.missing - endpoint.missing_reserved
        given = [spot for _, spots in before if not isinstance(spots, str) for spot in spots]
        spots = tuple(self._spots(endpoint, more, Counter(node_id for node_id, *_ in given)))
        if given or spots:
            yield endpoint.endpoint_id, (*given, *spots)
        elif before or not more:
            yield from before
        else:
            yield from self._postponed(endpoint, spots)

    def _postponed(self, endpoint: Endpoint, spots: Spots) -> Iterator[Plain]:
        view = self.world.view
        room = Room(view.pools(self.key), view.cordoned(self.key))
        reason = why_waiting(endpoint, Preferences(endpoint), room)
        known = endpoint.status == Status(EndpointState.QUEUED, reason)
        if not spots and waits(endpoint) and not known:
            yield endpoint.endpoint_id, reason

    def _spots(
        self, endpoint: Endpoint, missing: int, new: Counter[str]
    ) -> Iterator[tuple[str, tuple[int, ...], Candidates]]:
        need = endpoint.placing.gpu_count
        own = new + Counter(replica.node_id for replica in endpoint.occupying())
        failures = Counter(failure.node_id for failure in endpoint.failures)
        for _ in range(missing):
            scores = {
                node_id: -POLICY.per_gpu_left_over * (len(self.free[node_id]) - need)
                - POLICY.per_own_replica * own[node_id]
                - POLICY.per_failure * failures[node_id]
                for node_id in self._able(endpoint)
                if need <= self._usable(node_id)
            }
            if not scores:
                return
            ranked = sorted(scores, key=lambda node_id: (-scores[node_id], node_id))
            best = ranked[0]
            taken, self.free[best] = self.free[best][:need], self.free[best][need:]
            own[best] += 1
            yield best, taken, tuple((one, scores[one]) for one in ranked[:SHOWN])

    def _nominate(self, endpoint: Endpoint) -> tuple[str, int, int] | None:
        need, view = endpoint.placing.gpu_count, self.world.view

        def how_far(node_id: str) -> tuple[int, int, str]:
            free = len(self.free[node_id])
            return max(0, need - free - self._soon(node_id)), need - free, node_id

        large = [
            node_id
            for node_id in self._able(endpoint)
            if view.nodes[node_id].inventory.gpu_count >= need
        ]
        if not large:
            return None
        node_id = min(large, key=how_far)
        return node_id, need, self._soon(node_id)

    def _able(self, endpoint: Endpoint) -> list[str]:
        backends = fitting(endpoint.placing.serving)
        return [one.node_id for one in self.nodes if one.inventory.backends & backends]

    def _free(self, node: Node) -> tuple[int, ...]:
        holders = self.world.view.holders(node.node_id)
        return tuple(gpu for gpu in range(node.inventory.gpu_count) if gpu not in holders)

    def _usable(self, node_id: str) -> int:
        free = len(self.free[node_id])
        if self.kept is None or self.kept[0] != node_id:
            return free
        _, need, soon = self.kept
        return min(free, free + soon - need)

    def _soon(self, node_id: str) -> int:
        return sum(
            len(replica.gpus)
            for _, replica in self.world.view.replicas_on(node_id)
            if replica.state is ReplicaState.DRAINING
        )


def reference(world: World) -> list[Plain]:
    keys = {queue_key(one) for one in world.view.endpoints.values() if one.missing}
    return [one for key in sorted(keys) for one in Reference(world, key).decide()]


def planned(world: World) -> list[Plain]:
    return plain(plan(world.view, world.view.queues, POLICY, world.now))


sizes = st.sampled_from([1, 1, 1, 2, 4, 8])
backends = st.sampled_from([{"torch"}, {"torch", "tensorrt_llm"}])


@settings(max_examples=150, deadline=None)
@given(
    nodes=st.lists(st.tuples(sizes, backends), min_size=1, max_size=12),
    endpoints=st.lists(st.tuples(sizes, st.integers(1, 3)), max_size=30),
    gone=st.sets(st.integers(0, 29), max_size=10),
    newcomers=st.lists(sizes, max_size=6),
)
def test_a_long_queue_is_decided_as_if_everybody_in_it_was_looked_at(
    nodes: list[tuple[int, set[str]]],
    endpoints: list[tuple[int, int]],
    gone: set[int],
    newcomers: list[int],
) -> None:
    world = World()
    for gpus, able in nodes:
        world.join(gpus, backends=frozenset(able))
    created = []
    for gpus, replicas in endpoints:
        world.sleep(1)
        created.append(world.create(gpus, replicas))
    assert planned(world) == reference(world), "at first"
    world.plan()
    assert planned(world) == [], "nothing is decided twice"

    left = [created[index] for index in gone if index < len(created)]
    for endpoint_id in left:
        world.tell(endpoint_id, Delete())
    for gpus in newcomers:
        world.create(gpus)
    assert planned(world) == reference(world), "while some drain and others come"
    world.plan()
    for endpoint_id in left:
        world.finish_draining(endpoint_id)
    assert planned(world) == reference(world), "once their GPUs are free"


class FleetByTheBook(Fleet):
    """The same random lives; whatever has happened, the decisions are those of the reference."""

    @invariant()
    def decisions_are_those_of_the_reference(self) -> None:
        assert planned(self.world) == reference(self.world)


TestFleetByTheBook = FleetByTheBook.TestCase
TestFleetByTheBook.settings = settings(max_examples=20, stateful_step_count=40, deadline=None)
