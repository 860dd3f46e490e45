"""What-if: a request, simulated on a copy of the live view, and the answer to it."""

import asyncio
import gc
from typing import assert_never

from engineshed.api.scheduler.v1 import scheduling_service_pb2 as pb
from engineshed.runtime import utc_now
from engineshed.scheduler.domain.node import inventory_of
from engineshed.scheduler.domain.outcome import Move, Occupancy, Outcome, Waiting
from engineshed.scheduler.domain.score import Policy
from engineshed.scheduler.domain.simulate import (
    AddNodes,
    Change,
    DrainNode,
    LoseNode,
    ScaleEndpoint,
    States,
    simulate,
)
from engineshed.scheduler.journal import Journal
from engineshed.scheduler.loads import Loads


class Simulations:
    """Simulates on copies of the live view, one after the other."""

    def __init__(self, journal: Journal, loads: Loads, policy: Policy) -> None:
        self._journal = journal
        self._loads = loads
        self._policy = policy
        self._one_at_a_time = asyncio.Lock()

    async def answer(self, request: pb.SimulateChangesRequest) -> pb.SimulateChangesResponse:
        """Return what would become of the fleet; but for the copy, all runs in a thread.

        Raises:
            DomainError: one of the changes is refused, as it would be in truth.

        """
        changes = [_change_of(change) for change in request.changes]
        async with self._one_at_a_time:
            now = utc_now()
            states = States.of(self._journal.view, self._loads.idle(now))
            position = self._journal.seen.position
            # To look through two fleets for garbage would stop everything for most of a second.
            gc.disable()
            try:
                outcome = await asyncio.to_thread(simulate, states, changes, self._policy, now)
            finally:
                gc.enable()
            return await asyncio.to_thread(_response, outcome, position)


def _change_of(message: pb.SimulatedChange) -> Change:
    match message.WhichOneof("change"):
        case "add_nodes":
            return AddNodes(inventory_of(message.add_nodes.inventory), message.add_nodes.count)
        case "drain_node_id":
            return DrainNode(message.drain_node_id)
        case "lose_node_id":
            return LoseNode(message.lose_node_id)
        case "scale_endpoint":
            bounds = message.scale_endpoint
            return ScaleEndpoint(
                bounds.endpoint_id,
                bounds.min_replicas if bounds.HasField("min_replicas") else None,
                bounds.max_replicas if bounds.HasField("max_replicas") else None,
            )
        case None:
            raise AssertionError("a change without one is refused before")
        case other:
            assert_never(other)


def _response(outcome: Outcome, position: int) -> pb.SimulateChangesResponse:
    return pb.SimulateChangesResponse(
        moves=map(_move, outcome.moves),
        waits=map(_wait, outcome.waits),
        nodes=map(_node, outcome.nodes),
        settled=outcome.settled,
        position=position,
    )


def _move(move: Move) -> pb.SimulatedMove:
    return pb.SimulatedMove(
        endpoint_id=move.endpoint.endpoint_id,
        endpoint_name=move.endpoint.name,
        org_id=move.endpoint.org_id,
        from_node_id=move.from_node_id,
        to_node_id=move.to_node_id,
        gpu_count=move.gpu_count,
        reason=move.reason,
    )


def _wait(wait: Waiting) -> pb.SimulatedWait:
    return pb.SimulatedWait(
        endpoint_id=wait.endpoint.endpoint_id,
        endpoint_name=wait.endpoint.name,
        org_id=wait.endpoint.org_id,
        missing_replicas=wait.missing,
        reason=wait.reason,
        waits_now=wait.anyway,
    )


def _node(occupancy: Occupancy) -> pb.SimulatedNode:
    inventory = occupancy.node.inventory
    return pb.SimulatedNode(
        node_id=occupancy.node.node_id,
        hostname=inventory.hostname,
        gpu_type=inventory.gpu_type,
        gpu_count=inventory.gpu_count,
        taken_before=occupancy.taken_before,
        taken_after=occupancy.taken_after,
    )
