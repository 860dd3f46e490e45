"""Asking a scheduler to make its plans again."""

from datetime import datetime

from tests.service.scheduler.stack import Stack

from engineshed.api.scheduler.v1 import scheduling_service_pb2 as pb
from engineshed.api.scheduler.v1.scheduling_service_pb2_grpc import SchedulingServiceStub
from engineshed.runtime import to_timestamp


async def replayed(
    stack: Stack, start: datetime | None = None, end: datetime | None = None
) -> list[pb.ReplayDecisionsResponse]:
    """Return all that a replay says; the last has the result."""
    operator = stack.tenant("operator")
    request = pb.ReplayDecisionsRequest(
        start_time=to_timestamp(start) if start else None,
        end_time=to_timestamp(end) if end else None,
    )
    call = SchedulingServiceStub(operator.channel).ReplayDecisions(request, wait_for_ready=True)
    try:
        return [said async for said in call]
    finally:
        await operator.close()


async def require_reproducible(stack: Stack) -> pb.ReplayDecisionsResponse:
    """Make all plans again; none may come out otherwise."""
    last = (await replayed(stack))[-1]
    assert (last.differing_turns, list(last.differences)) == (0, []), last
    assert last.turns == last.turns_total > 0
    return last
