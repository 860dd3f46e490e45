"""Making recorded plans again, on the same inputs, and comparing what comes out.

A replay follows the log with a view of its own. It also holds what really happened against the
plans: whatever was placed or scaled must have been decided by one of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from google.protobuf.json_format import MessageToJson

from engineshed.api.scheduler.v1 import events_pb2 as events
from engineshed.api.scheduler.v1 import plan_turn_pb2 as pb
from engineshed.scheduler.domain.evolve import evolve
from engineshed.scheduler.domain.plan import Assign, Decision, plan, plan_newcomer
from engineshed.scheduler.domain.plan_turn import (
    decision_message,
    policy_of,
    queues_of,
    reports_of,
    signals_of,
    time_of,
)
from engineshed.scheduler.domain.view import View


@dataclass(frozen=True, slots=True)
class Difference:
    """A plan that came out otherwise, in words."""

    position: int  # of the last event before it
    at: datetime
    recorded: Sequence[str]  # what was decided, or done, that is not decided now
    replayed: Sequence[str]  # what is decided now that was not


class Replay:
    """A history, led through again; its events and plans are given to it in order."""

    def __init__(self) -> None:
        self._view = View()
        self._early: set[int] = set()  # positions of events that were folded before their time
        self._began = False  # with a first plan
        self._decided: dict[tuple[str, str], pb.PlanDecision] = {}  # last, by endpoint and kind
        self._unexplained: list[str] = []  # what is wrong since the last plan, in words

    def fold(self, position: int, stream: str, event: object, at: datetime) -> None:
        """Fold the next event of the log, unless that has been done already."""
        if position in self._early:
            self._early.remove(position)
        else:
            self._apply(stream, event, at)

    def fold_early(self, position: int, stream: str, event: object, at: datetime) -> None:
        """Fold an event further ahead, which the next plan knew."""
        if position not in self._early:
            self._early.add(position)
            self._apply(stream, event, at)

    def note(self, what: str) -> None:
        """Note, in words, what else is wrong with the record before the next plan."""
        self._unexplained.append(what)

    def make_again(self, turn: pb.PlanTurn) -> Difference | None:
        """Make the next plan again; return how it differs, or what came before it unplanned.

        All events that it knew must have been folded, and no others.
        """
        self._hear(turn)
        unexplained, self._unexplained = self._unexplained, []
        recorded = list(turn.decisions)
        replayed = [decision_message(decision) for decision in self._decisions(turn)]
        self._decided |= {_key(decision): decision for decision in recorded}
        self._tidy_up()
        if recorded == replayed and not unexplained:
            return None
        return Difference(
            turn.position,
            time_of(turn),
            [*unexplained, *_told(recorded, replayed)],
            _told(replayed, recorded),
        )

    def _apply(self, stream: str, event: object, at: datetime) -> None:
        self._view.apply(stream, event, at)
        if self._began and (happened := self._unplanned(event)):
            self._unexplained.append(happened)

    def _hear(self, turn: pb.PlanTurn) -> None:
        """Take over what agents have said; those that went unheard are lost by an event, too."""
        self._began = True
        reports = reports_of(turn)
        if turn.whole:
            self._view = View.of(self._view.endpoints, self._view.nodes, reports)
        else:
            for node_id, foreign in reports.items():
                self._view.note_report(node_id, foreign)

    def _decisions(self, turn: pb.PlanTurn) -> Sequence[Decision]:
        policy, now = policy_of(turn), time_of(turn)
        if not turn.HasField("newcomer"):
            return plan(self._view, queues_of(turn), policy, now, signals_of(turn))
        newcomer = evolve(None, turn.newcomer, now)
        spots = plan_newcomer(self._view, newcomer, policy, now)
        return [Assign(newcomer.endpoint_id, spots, newcomer.placing.number)] if spots else []

    def _unplanned(self, event: object) -> str:
        """Return in words what an event did that no plan has decided; "": nothing."""
        match event:
            case events.ReplicaPlaced():
                assign = self._decided.get((event.endpoint_id, "assign"), _NOTHING).assign
                spot = pb.AssignedSpot(node_id=event.node_id, gpus=event.gpus, why=event.why)
                placed = _placed(event.endpoint_id, event.node_id, event.gpus)
                return "" if spot in assign.spots else f"{placed}, which no plan decided"
            case events.EndpointAutoscaled():
                scale = self._decided.get((event.endpoint_id, "scale"), _NOTHING).scale
                planned = (event.replicas, event.why) == (scale.replicas, scale.why)
                scaled = _scaled(event.endpoint_id, event.replicas)
                return "" if planned else f"{scaled}, which no plan decided"
            case _:
                return ""

    def _tidy_up(self) -> None:
        """Forget what is over, as the scheduler does."""
        self._view.take_changes()
        for endpoint_id in self._view.finished:
            self._view.forget(endpoint_id)
            for kind in _KINDS:
                self._decided.pop((endpoint_id, kind), None)


_NOTHING: Final = pb.PlanDecision()
_KINDS: Final = [field.name for field in pb.PlanDecision.DESCRIPTOR.oneofs[0].fields]


def _key(decision: pb.PlanDecision) -> tuple[str, str]:
    kind = decision.WhichOneof("decision") or ""
    return getattr(decision, kind).endpoint_id, kind


def _placed(endpoint_id: str, node_id: str, gpus: Sequence[int]) -> str:
    return f"{endpoint_id} gets {node_id} GPU {','.join(map(str, gpus))}"


def _scaled(endpoint_id: str, replicas: int) -> str:
    return f"{endpoint_id} wants {replicas} replicas"


def _told(ours: Sequence[pb.PlanDecision], others: Sequence[pb.PlanDecision]) -> list[str]:
    """Return in words those of our decisions that are not among the others.

    If only their order is another, all of them.
    """
    missing = [decision for decision in ours if decision not in others]
    same = not missing and all(decision in ours for decision in others) and ours != others
    texts = {_in_words(decision) for decision in others}
    return [
        _in_words(decision, in_full=_in_words(decision) in texts)
        for decision in (ours if same else missing)
    ]


def _in_words(decision: pb.PlanDecision, *, in_full: bool = False) -> str:
    if in_full:  # they differ in why alone
        return MessageToJson(decision, indent=None, preserving_proto_field_name=True)
    match decision.WhichOneof("decision"):
        case "assign":
            assign = decision.assign
            spots = [_placed(assign.endpoint_id, one.node_id, one.gpus) for one in assign.spots]
            return "; ".join(spots)
        case "postpone":
            return f"{decision.postpone.endpoint_id} waits: {decision.postpone.reason}"
        case "reclaim":
            reclaim = decision.reclaim
            return f"{reclaim.endpoint_id} gives back {', '.join(reclaim.replica_ids)}"
        case "scale":
            return _scaled(decision.scale.endpoint_id, decision.scale.replicas)
        case _:
            return "nothing that is known"
