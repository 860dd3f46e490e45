"""What happens to an endpoint: its events and its replicas' logs, at once or as they come."""

import json
from collections.abc import AsyncIterator
from typing import Annotated, Any, Final, Literal

import structlog
from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse

from engineshed.api.events.v1.event_service_pb2 import ReadEventsRequest
from engineshed.bus.logs import LogSource, Period, follow_logs, read_logs
from engineshed.errors import InvalidFieldError
from engineshed.gateway.controlplane import schemas, views
from engineshed.gateway.controlplane.clients import Caller, CallerDep
from engineshed.gateway.controlplane.endpoints import owned_endpoint
from engineshed.gateway.controlplane.parameters import EndpointId, Moment
from engineshed.gateway.controlplane.views import Json

MAX_LINES: Final = 10_000
READ_SECONDS: Final = 10.0
EVENT_STREAM: Final = "text/event-stream"
FOLLOWED: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "What there is; or, with follow, a stream of the items of `data`.",
        "content": {EVENT_STREAM: {"schema": {"type": "string"}}},
    }
}

router = APIRouter(prefix="/v0/dedicated_endpoints/{endpoint_id}", tags=["endpoints"])
all_events = APIRouter(prefix="/v0", tags=["events"])

AfterPosition = Annotated[
    int,
    Query(
        ge=0,
        le=2**63 - 1,
        description="The `position` of the last one already seen; a page's `next_page_token`.",
    ),
]
Follow = Annotated[bool, Query(description="Go on as more comes, as server-sent events.")]
Limit = Annotated[int, Query(ge=1, le=MAX_LINES, description="How many at most.")]

log: Final[structlog.stdlib.BoundLogger] = structlog.get_logger()


@router.get("/events", response_model=schemas.Page[schemas.Event], responses=FOLLOWED)
async def get_events(
    endpoint_id: EndpointId,
    caller: CallerDep,
    after_position: AfterPosition = 0,
    limit: Limit = MAX_LINES,
    follow: Follow = False,
) -> Json | StreamingResponse:
    """Return an endpoint's history in order: every change, who caused it and when."""
    await owned_endpoint(caller, endpoint_id)
    stream = f"endpoint/{endpoint_id}"
    return await _history(caller, stream, after_position, limit, follow=follow)


@all_events.get("/events", response_model=schemas.Page[schemas.Event], responses=FOLLOWED)
async def get_all_events(
    caller: CallerDep,
    after_position: AfterPosition = 0,
    limit: Limit = MAX_LINES,
    follow: Follow = False,
) -> Json | StreamingResponse:
    """Return what happened to all endpoints of the organization, in order.

    Operators see those of all organizations, and what happened to nodes.
    """
    return await _history(caller, "", after_position, limit, follow=follow)


@router.get("/logs", response_model=schemas.LogPage, responses=FOLLOWED)
async def get_logs(
    endpoint_id: EndpointId,
    caller: CallerDep,
    limit: Limit = 200,
    replica_id: Annotated[
        str, Query(pattern="^(rep_[0-9A-HJKMNP-TV-Z]{26})?$", description="Only of this replica.")
    ] = "",
    source: Annotated[
        Literal["", "agent", "build", "front", "triton"],
        Query(description="Only from there; agent: how a replica failed."),
    ] = "",
    before: Annotated[
        int | None, Query(ge=1, le=2**63 - 1, description="Only lines before this `sequence`.")
    ] = None,
    since: Annotated[
        Moment | None, Query(description="Only lines that were logged then or later.")
    ] = None,
    until: Annotated[
        Moment | None, Query(description="Only lines that were logged before then.")
    ] = None,
    follow: Follow = False,
) -> Json | StreamingResponse:
    """Return what an endpoint's replicas wrote, newest first; or, with follow, as it comes.

    With `since` or `until` a page may have fewer lines than asked for, and yet not be the last: go
    on with its `before` until that is null.
    """
    if follow and until is not None:
        raise InvalidFieldError.of(
            "until", "what comes has no end; leave out either this or follow"
        )
    endpoint = await owned_endpoint(caller, endpoint_id)
    wanted = LogSource(endpoint.org_id, endpoint_id, replica_id or "*", source or "*")
    page = await read_logs(
        caller.services.bus, wanted, limit=limit, before=before, period=Period(since, until)
    )
    lines = [views.log_line(item) for item in page.lines]
    if follow:
        return _stream(_log_lines(caller, wanted, lines, page.after))
    return {**views.page(lines, ""), "before": page.before}


async def _history(
    caller: Caller, stream: str, after_position: int, limit: int, *, follow: bool
) -> Json | StreamingResponse:
    request = ReadEventsRequest(
        after_position=after_position,
        stream=stream,
        limit=0 if follow else limit,
        follow=follow,
    )
    if follow:
        return _stream(_events(caller, request, deadline=None))
    items = [item async for item in _events(caller, request, READ_SECONDS)]
    return views.page(items, str(items[-1]["position"]) if len(items) == limit else "")


async def _events(
    caller: Caller, request: ReadEventsRequest, deadline: float | None
) -> AsyncIterator[Json]:
    call = caller.services.events.ReadEvents(request, metadata=caller.metadata, timeout=deadline)
    try:
        async for reply in call:
            yield views.event(reply.event)
    finally:
        call.cancel()


async def _log_lines(
    caller: Caller, source: LogSource, first: list[Json], after: int
) -> AsyncIterator[Json]:
    for item in reversed(first):
        yield item
    async for line in follow_logs(caller.services.bus, source, after=after):
        await caller.watch.check()
        yield views.log_line(line)


def _stream(items: AsyncIterator[Json]) -> StreamingResponse:
    return StreamingResponse(
        _as_events(items),
        media_type=EVENT_STREAM,
        headers={"cache-control": "no-store"},
    )


async def _as_events(items: AsyncIterator[Json]) -> AsyncIterator[str]:
    yield ": begin\n\n"  # so that the caller sees that it has begun
    try:
        async for item in items:
            yield f"data: {json.dumps(item)}\n\n"
    except Exception as error:  # noqa: BLE001 - the status is sent; the stream must say it
        log.warning("stream ended", error=repr(error))
        yield f"data: {json.dumps({'error': {'message': 'the stream broke; follow again'}})}\n\n"
