"""EventService over gRPC: the log of a service, for those who may read it.

The service mounts it and says in its access table who may call it at all.
"""

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any, Final

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from grpc.aio import ServicerContext

from engineshed.api.events.v1 import event_service_pb2 as pb
from engineshed.api.events.v1.event_service_pb2_grpc import EventServiceServicer
from engineshed.auth import ForbiddenError, Principal
from engineshed.eventstore.model import RecordedEvent
from engineshed.eventstore.store import EventStore
from engineshed.rpc import current_call

_PAGE: Final = 500


class EventServicer(EventServiceServicer):
    """Interceptors validate the request and give errors their status before and after this."""

    def __init__(
        self, store: EventStore, for_owner: Callable[[Message], Message] = lambda event: event
    ) -> None:
        """Serve `store`; organizations see their own events as `for_owner` returns them."""
        self._store = store
        self._for_owner = for_owner

    async def ReadEvents(  # noqa: N802 - gRPC dictates the name
        self,
        request: pb.ReadEventsRequest,
        context: ServicerContext[Any, Any],  # noqa: ARG002 - gRPC passes it
    ) -> AsyncGenerator[pb.ReadEventsResponse]:
        """Yield the events that the caller may see, in order of position."""
        principal = current_call().principal
        org_id = _visible(request.org_id, principal)
        sent = 0
        async with aclosing(self._events(request, org_id)) as events:
            async for recorded in events:
                event = recorded.event if principal.sees_all else self._for_owner(recorded.event)
                yield pb.ReadEventsResponse(event=_message(recorded, event))
                sent += 1
                if sent == request.limit:
                    return

    async def _events(
        self, request: pb.ReadEventsRequest, org_id: str
    ) -> AsyncGenerator[RecordedEvent]:
        after, stream, types = request.after_position, request.stream, list(request.types)
        if request.follow:
            following = self._store.follow(after, stream=stream, org_id=org_id, types=types)
            async with aclosing(following):
                async for recorded in following:
                    yield recorded
            return
        last = await self._store.last_position()
        while page := await self._store.read(
            after, _PAGE, stream=stream, org_id=org_id, types=types
        ):
            for recorded in page:
                if recorded.position > last:  # recorded since; who wants more calls again
                    return
                yield recorded
            after = page[-1].position


def _visible(org_id: str, principal: Principal) -> str:
    """Return the organization whose events are read; empty: all of them."""
    if principal.sees_all:
        return org_id
    if org_id not in ("", principal.org_id):
        raise ForbiddenError("events of another organization are for operators; leave org_id out")
    return principal.org_id


def _message(recorded: RecordedEvent, event: Message) -> pb.Event:
    data = AnyMessage()
    data.Pack(event)
    recorded_at = Timestamp()
    recorded_at.FromDatetime(recorded.recorded_at)
    metadata = recorded.metadata
    return pb.Event(
        event_id=recorded.event_id,
        position=recorded.position,
        stream=recorded.stream,
        version=recorded.version,
        data=data,
        recorded_at=recorded_at,
        org_id=metadata.org_id,
        actor=metadata.actor,
        request_id=metadata.request_id,
        causation_id=metadata.causation_id,
        traceparent=metadata.traceparent,
    )
