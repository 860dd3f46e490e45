"""SchedulingService over gRPC."""

from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any

from grpc.aio import ServicerContext

from engineshed.api.scheduler.v1 import scheduling_service_pb2 as pb
from engineshed.api.scheduler.v1.events_pb2 import ReplicaPlaced
from engineshed.api.scheduler.v1.scheduling_service_pb2_grpc import SchedulingServiceServicer
from engineshed.errors import InvalidFieldError
from engineshed.eventstore import RecordedEvent
from engineshed.rpc import current_call
from engineshed.runtime import from_timestamp, to_timestamp, utc_now
from engineshed.scheduler.agents import Agents
from engineshed.scheduler.domain.autoscale import why_kept
from engineshed.scheduler.domain.disclosure import why_for_owner
from engineshed.scheduler.domain.endpoint import Endpoint
from engineshed.scheduler.domain.explain import Wait, explain_wait
from engineshed.scheduler.domain.replay import Difference
from engineshed.scheduler.domain.score import Policy
from engineshed.scheduler.endpoint_service import require_owner
from engineshed.scheduler.endpoints import Endpoints
from engineshed.scheduler.journal import Journal
from engineshed.scheduler.loads import Loads
from engineshed.scheduler.rendering import endpoint_message
from engineshed.scheduler.replaying import Progress, replay
from engineshed.scheduler.simulation import Simulations


class SchedulingServicer(SchedulingServiceServicer):
    """Interceptors validate the request and give errors their status before and after this."""

    def __init__(
        self,
        journal: Journal,
        endpoints: Endpoints,
        agents: Agents,
        loads: Loads,
        policy: Policy,
    ) -> None:
        self._journal = journal
        self._endpoints = endpoints
        self._agents = agents
        self._loads = loads
        self._policy = policy
        self._simulations = Simulations(journal, loads, policy)

    async def ExplainEndpoint(
        self, request: pb.ExplainEndpointRequest, context: ServicerContext[Any, Any]
    ) -> pb.ExplainEndpointResponse:
        """Say why replicas are where they are, and what the others wait for."""
        principal = current_call().principal
        found = await self._endpoints.get(request.endpoint_id)
        endpoint = require_owner(request.endpoint_id, found, principal)
        view, now = self._journal.view, utc_now()
        message = endpoint_message(endpoint, now, view=view, agents=self._agents)
        shown = {replica.replica_id for replica in message.replicas}
        history = await self._journal.store.load(f"endpoint/{endpoint.endpoint_id}")
        wait = None
        if endpoint.endpoint_id in view.endpoints:
            wait = explain_wait(view, endpoint, self._policy, now)
        return pb.ExplainEndpointResponse(
            endpoint=message,
            placements=[
                _placement(recorded, event, in_full=principal.sees_all)
                for recorded in history
                if isinstance(event := recorded.event, ReplicaPlaced) and event.replica_id in shown
            ],
            wait=_wait(wait, in_full=principal.sees_all) if wait else None,
            scaling=self._scaling(endpoint, now) if endpoint.elastic else None,
        )

    async def SimulateChanges(
        self, request: pb.SimulateChangesRequest, context: ServicerContext[Any, Any]
    ) -> pb.SimulateChangesResponse:
        """Answer what would become of the fleet, and change nothing."""
        return await self._simulations.answer(request)

    async def ReplayDecisions(
        self, request: pb.ReplayDecisionsRequest, context: ServicerContext[Any, Any]
    ) -> AsyncIterator[pb.ReplayDecisionsResponse]:
        """Make the plans that are kept again, and tell how far that is."""
        start = from_timestamp(request.start_time) if request.HasField("start_time") else None
        end = from_timestamp(request.end_time) if request.HasField("end_time") else None
        if start is not None and end is not None and end < start:
            raise InvalidFieldError.of("end_time", "it must not be before start_time")
        progress = Progress(total=0)
        async for progress in replay(self._journal.store, start, end):
            yield _progress(progress)
        last = _progress(progress)
        last.differences.extend(map(_difference, progress.differences))
        yield last

    def _scaling(self, endpoint: Endpoint, now: datetime) -> pb.ScalingExplanation:
        load, last = self._loads.load_of(endpoint, now), endpoint.autoscaling
        return pb.ScalingExplanation(
            target=self._policy.target,
            load=load.message(endpoint.endpoint_id) if load else None,
            last=last.why,
            last_time=to_timestamp(last.at) if last.at else None,
            reason=why_kept(endpoint, load, self._policy),
        )


def _progress(progress: Progress) -> pb.ReplayDecisionsResponse:
    return pb.ReplayDecisionsResponse(
        turns=progress.turns,
        turns_total=progress.total,
        decisions=progress.decisions,
        differing_turns=progress.differing,
    )


def _difference(difference: Difference) -> pb.ReplayDifference:
    return pb.ReplayDifference(
        position=difference.position,
        plan_time=to_timestamp(difference.at),
        recorded=difference.recorded,
        replayed=difference.replayed,
    )


def _placement(
    recorded: RecordedEvent, event: ReplicaPlaced, *, in_full: bool
) -> pb.PlacementExplanation:
    return pb.PlacementExplanation(
        replica_id=event.replica_id,
        node_id=event.node_id,
        place_time=to_timestamp(recorded.recorded_at),
        why=event.why if in_full else why_for_owner(event),
        candidates=len(event.why.candidates),
    )


def _wait(wait: Wait, *, in_full: bool) -> pb.WaitExplanation:
    message = pb.WaitExplanation(
        missing_replicas=wait.missing,
        reason=wait.reason,
        queue_position=wait.position,
        retry_time=to_timestamp(wait.retry_at) if wait.retry_at else None,
    )
    if in_full:
        message.queue_length = wait.length
        message.nominated_node_id = wait.nominated
        for name, nodes in wait.rejected.items():
            message.rejected[name] = nodes
    return message
