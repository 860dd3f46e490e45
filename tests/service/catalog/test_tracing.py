"""Events say which trace they come of."""

from engineshed.api.catalog.v1.token_service_pb2 import CreateTokenRequest
from engineshed.api.events.v1.event_service_pb2 import ReadEventsRequest

from .conftest import Caller

GIVEN = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


async def test_an_event_carries_the_trace_and_the_id_of_the_request_behind_it(
    admin: Caller,
) -> None:
    call = admin.tokens.CreateToken(
        CreateTokenRequest(name="test", scopes=["inference"]),
        metadata=(("traceparent", GIVEN), ("x-request-id", "the-callers")),
    )
    token = (await call).token

    request = ReadEventsRequest(stream=f"token/{token.token_id}")
    (event,) = [reply.event async for reply in admin.events.ReadEvents(request)]
    assert (event.traceparent, event.request_id) == (GIVEN, "the-callers")
    assert dict(await call.trailing_metadata())["x-request-id"] == "the-callers"
