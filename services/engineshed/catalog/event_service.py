"""EventService over gRPC: the catalog's log, for those who may read it."""

from collections.abc import AsyncIterator
from typing import Any, Final

from google.protobuf.any_pb2 import Any as AnyMessage
from grpc.aio import ServicerContext

from engineshed.api.events.v1 import event_service_pb2 as pb
from engineshed.api.events.v1.event_service_pb2_grpc import EventServiceServicer
from engineshed.auth import ForbiddenError, Principal
from engineshed.eventstore import EventStore, RecordedEvent
from engineshed.rpc import current_call
from engineshed.runtime import to_timestamp

_PAGE: Final = 500


class EventServicer(EventServiceServicer):
    """Interceptors validate the request and give errors their status before and after this."""

    def __init__(self, store: EventStore) -> None:
        self._store = store

    async def ReadEvents(
        self, request: pb.ReadEventsRequest, context: ServicerContext[Any, Any]
    ) -> AsyncIterator[pb.ReadEventsResponse]:
        """Yield the events that the caller may see, in order of position."""
        org_id = _visible(request.org_id, current_call().principal)
        left = request.limit or None
        async for recorded in self._events(request, org_id):
            yield pb.ReadEventsResponse(event=_message(recorded))
            if left is not None:
                left -= 1
                if left == 0:
                    return

    async def _events(
        self, request: pb.ReadEventsRequest, org_id: str | None
    ) -> AsyncIterator[RecordedEvent]:
        stream, types = request.stream or None, list(request.types)
        if request.follow:
            async for recorded in self._store.follow(
                request.after_position, stream=stream, org_id=org_id, types=types
            ):
                yield recorded
            return
        after = request.after_position
        while True:
            page = await self._store.read(after, _PAGE, stream=stream, org_id=org_id, types=types)
            for recorded in page:
                yield recorded
            if len(page) < _PAGE:
                return
            after = page[-1].position


def _visible(org_id: str, principal: Principal) -> str | None:
    """Return the organization whose events are read; None: all of them."""
    if principal.sees_all:
        return org_id or None
    if org_id not in ("", principal.org_id):
        raise ForbiddenError("events of another organization are for operators; leave org_id out")
    return principal.org_id


def _message(recorded: RecordedEvent) -> pb.Event:
    data = AnyMessage()
    data.Pack(recorded.event)
    metadata = recorded.metadata
    return pb.Event(
        event_id=recorded.event_id,
        position=recorded.position,
        stream=recorded.stream,
        version=recorded.version,
        data=data,
        recorded_at=to_timestamp(recorded.recorded_at),
        org_id=metadata.org_id,
        actor=metadata.actor,
        request_id=metadata.request_id,
        causation_id=metadata.causation_id,
        traceparent=metadata.traceparent,
    )
