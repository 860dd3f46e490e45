"""Plans that are kept are made again, and whatever is otherwise is found."""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule
from tests.unit.scheduler.test_fleet_properties import Fleet, index
from tests.unit.scheduler.world import World

from engineshed.api.scheduler.v1 import events_pb2
from engineshed.api.scheduler.v1.plan_turn_pb2 import PlanTurn
from engineshed.scheduler.domain.commands import Stop
from engineshed.scheduler.domain.load import Load, Signals
from engineshed.scheduler.domain.plan import Assign, Decision, plan, plan_newcomer
from engineshed.scheduler.domain.plan_turn import node_signals, turn_of
from engineshed.scheduler.domain.replay import Difference, Replay
from engineshed.scheduler.domain.scaling import Scaling
from engineshed.scheduler.domain.score import Policy

Event = tuple[str, object, datetime]


class RecordedWorld(World):
    """A world whose plans are kept, as the scheduler keeps them."""

    def __init__(self, policy: Policy | None = None) -> None:
        super().__init__()
        self.turns: list[PlanTurn] = []
        self._policy = policy or Policy()

    def take_turn(self, signals: Signals | None = None) -> list[Decision]:
        """Plan what has changed, keep that, and carry it out."""
        signals = signals or Signals()
        self.view.wake_due(self.now)
        queues = self.view.take_changes().queues
        decisions = plan(self.view, queues, self._policy, self.now, signals)
        if decisions:
            self._keep(turn_of(decisions, self.now, self._policy, queues, signals, None))
        self.carry_out(decisions)
        return decisions

    def place_at_once(self) -> str:
        """Create an endpoint that must not wait."""
        later = World()
        later.now = self.now
        later.create()
        ((_, created, _),) = later.log
        assert isinstance(created, events_pb2.EndpointCreated)
        created.endpoint_id = "ep_at_once"
        newcomer = later.endpoint("ep_0001")
        spots = plan_newcomer(self.view, newcomer, self._policy, self.now)
        assign = Assign("ep_at_once", spots, 1)
        self._keep(turn_of([assign], self.now, self._policy, (), Signals(), created))
        self.record("endpoint/ep_at_once", [created])
        self.carry_out([assign])
        return "ep_at_once"

    def _keep(self, turn: PlanTurn) -> None:
        turn.position = len(self.log)
        turn.whole = not self.turns
        turn.nodes.extend(node_signals(self.view.reports, sorted(self.view.told)))
        self.view.told.clear()
        self.turns.append(turn)


def replayed(log: Sequence[Event], turns: Sequence[PlanTurn]) -> list[Difference]:
    replay, position = Replay(), 0
    differences = []
    for turn in turns:
        while position < turn.position:
            position += 1
            replay.fold(position, *log[position - 1])
        for ahead in turn.ahead:
            replay.fold_early(ahead, *log[ahead - 1])
        if difference := replay.make_again(turn):
            differences.append(difference)
    return differences


def busy_world() -> RecordedWorld:
    """Return a world in which all kinds of decisions were made."""
    world = RecordedWorld(Policy(version="of-the-test", per_own_replica=3.0, target=2.0))
    first = world.join(2)
    second = world.join(3)
    elastic = world.create(scaling=Scaling(1, 3))
    world.take_turn()
    world.all_ready(elastic)
    world.take_turn(Signals(loads={elastic: Load(6.0, 5.5, None, world.now - world.now)}))
    world.take_turn()
    world.all_ready(elastic)
    world.view.note_report(first, {1})
    world.place_at_once()
    world.sleep(5)
    waiting = [world.create(2), world.create(1)]
    world.take_turn()
    idle = frozenset(one.replica_id for one in world.endpoint(elastic).opportunistic)
    world.tell(waiting[1], Stop())
    world.create(1)
    world.take_turn(Signals(idle=idle))
    world.lose(second)
    world.take_turn()
    world.hear(second)
    world.take_turn()
    return world


def test_a_history_is_reproduced_exactly() -> None:
    world = busy_world()

    kinds = {one.WhichOneof("decision") for turn in world.turns for one in turn.decisions}
    assert kinds == {"assign", "postpone", "reclaim", "scale"}
    assert replayed(world.log, world.turns) == []


def test_a_history_can_be_begun_in_the_middle() -> None:
    world = busy_world()
    turn = world.turns[3]
    turn.whole = True
    del turn.nodes[:]
    reports = {one.node_id: one for earlier in world.turns[:4] for one in earlier.nodes}
    turn.nodes.extend(reports.values())

    assert replayed(world.log, world.turns[3:]) == []


def other_gpus(turn: PlanTurn) -> None:
    turn.decisions[0].assign.spots[0].gpus[:] = [3]


def other_why(turn: PlanTurn) -> None:
    turn.decisions[0].assign.spots[0].why.candidates[0].score -= 1


def other_policy(turn: PlanTurn) -> None:
    turn.policy.version = "another"


def other_signals(turn: PlanTurn) -> None:
    turn.nodes[0].foreign_gpus.extend([0, 1, 2, 3])
    turn.nodes[1].foreign_gpus.extend([0, 1, 2, 3])


def one_less(turn: PlanTurn) -> None:
    del turn.decisions[0]


@pytest.mark.parametrize("tamper", [other_gpus, other_why, other_policy, other_signals, one_less])
def test_whatever_was_changed_in_the_record_is_found(tamper: Callable[[PlanTurn], None]) -> None:
    world = busy_world()
    tamper(world.turns[0])

    first, *_ = replayed(world.log, world.turns)

    assert first.position == world.turns[0].position
    assert first.recorded != first.replayed


def test_a_placement_that_no_plan_decided_is_found() -> None:
    world = busy_world()
    placed = [one for one in world.turns if one.HasField("newcomer")]
    world.turns.remove(placed[0])

    differences = replayed(world.log, world.turns)

    told = [text for difference in differences for text in difference.recorded]
    assert any(text.endswith("which no plan decided") and "ep_at_once" in text for text in told)


def test_events_that_were_known_ahead_of_others_are_folded_ahead() -> None:
    world = RecordedWorld()
    world.join(1)
    world.create()
    world.create()
    world.take_turn()
    # The first endpoint's event was not known yet when the second one was placed.
    (turn,) = world.turns
    late = RecordedWorld()
    late.join(1)
    second = world.log[2]
    late.view.apply(*second)
    late.take_turn()
    (other,) = late.turns
    turn.CopyFrom(other)
    turn.position, turn.ahead[:] = 1, [3]

    assert replayed(world.log, [turn]) == []
    turn.position, turn.ahead[:] = 3, []
    assert replayed(world.log, [turn])


class RecordedFleet(Fleet):
    """A fleet under random commands, reports and losses, whose plans are kept."""

    def __init__(self) -> None:
        super().__init__()
        self.world: RecordedWorld = RecordedWorld()
        for _ in range(2):
            self.world.join(4)
            self.world.create(scaling=Scaling(1, 3))

    @invariant()
    def scheduler_follows(self) -> None:
        self.world.evacuate()
        self.world.take_turn()

    @rule(busy=st.integers(0, 3))
    def scheduler_plans(self, busy: int) -> None:
        self.world.evacuate()
        extra = [one for each in self.world.view.endpoints.values() for one in each.opportunistic]
        self.world.view.changes.queues.update(self.world.view.queues)
        self.world.take_turn(Signals(idle=frozenset(one.replica_id for one in extra[busy:])))

    @precondition(lambda self: self.world.view.endpoints)
    @rule(index=index, low=st.integers(0, 30), idle_for=st.sampled_from([0, 60, 600]))
    def load_is_told(self, index: int, low: int, idle_for: int) -> None:
        endpoints = list(self.world.view.endpoints)
        load = Load(low, low, low, timedelta(seconds=idle_for))
        self.world.take_turn(Signals(loads={endpoints[index % len(endpoints)]: load}))

    @precondition(lambda self: self.world.view.nodes)
    @rule(index=index, gpus=st.sets(st.integers(0, 3)))
    def agent_finds_what_should_not_be_there(self, index: int, gpus: set[int]) -> None:
        node = self.node(index)
        if node.heard:
            self.world.view.note_report(node.node_id, gpus)

    @invariant()
    def the_indexes_are_those_of_the_log(self) -> None:
        """They are not: what agents find is in no event."""

    def teardown(self) -> None:
        assert replayed(self.world.log, self.world.turns) == []


TestRecordedFleet = RecordedFleet.TestCase
TestRecordedFleet.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
