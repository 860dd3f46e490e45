import asyncio
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import pytest

from engineshed.api.replica.v1.replica_service_pb2 import GetStatusRequest

from .fronts import DEADLINE, MAX_CONTEXT, SECRET, Front, text_of

LONG = {"max_tokens": 300, "temperature": 0}
SLOW = "x[forever][slow]"
IN_FLIGHT = "engineshed_replica_requests_in_flight"
ADMITTED = "engineshed_replica_requests_admitted_total"
REFUSED = "engineshed_replica_requests_refused_total"


def begin(front: Front, prompt: str = SLOW, **fields: Any) -> asyncio.Task[Any]:
    """A long request, in the background."""
    return asyncio.create_task(front.complete(prompt, **{**LONG, **fields}))


async def leave(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def leave_a_stream(front: Front, n: int) -> None:
    async with front.streaming(SLOW, n=n, **LONG):
        pass


async def half_a_request(front: Front) -> asyncio.StreamWriter:
    """Send a head that promises more than comes."""
    url = urlsplit(front.state.http_url)
    _, writer = await asyncio.open_connection(url.hostname, url.port)
    writer.write(
        b"POST /v1/completions HTTP/1.1\r\nhost: replica\r\ncontent-length: 1000\r\n"
        b"authorization: Bearer " + SECRET.encode() + b"\r\n\r\n"
        b'{"prompt": "hello'
    )
    await writer.drain()
    return writer


async def test_what_exceeds_the_limit_is_refused_and_disturbs_nobody(
    front: Front, open_gate: Callable[[], None]
) -> None:
    admitted = [begin(front, f"{number}[gate]") for number in range(8)]
    await front.in_flight(8)

    async with front.post("/v1/completions", {"prompt": "one more"}) as response:
        error = (await response.json())["error"]
    assert response.status == 503
    assert response.headers["retry-after"] == "1"
    assert (error["code"], error["type"]) == ("overloaded", "service_unavailable_error")

    open_gate()
    bodies = await asyncio.gather(*admitted)
    for number, body in enumerate(bodies):
        assert body["choices"][0]["text"] == f"{number}[gate]"
        assert body["usage"]["completion_tokens"] == len("0[gate]") + 1


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_goes_away_frees_its_place_at_once(front: Front, stream: bool) -> None:
    hanging = [begin(front, "[hang]", stream=stream) for _ in range(8)]
    await front.in_flight(8)

    await leave(*hanging)
    await front.in_flight(0)

    # The engine works on four at once, so it stopped working on those that left.
    body = await front.complete("hello", temperature=0)
    assert body["choices"][0]["text"] == "hello"


async def test_a_client_that_leaves_in_the_middle_of_a_stream_stops_it(front: Front) -> None:
    async with front.streaming(SLOW, n=4, **LONG):
        await front.in_flight(1)
    await front.in_flight(0)


async def test_sequences_beyond_the_engines_limit_wait_and_are_never_rejected(
    front: Front,
) -> None:
    body = await front.complete(["a", "b", "c"], n=8, temperature=0, max_tokens=9)

    assert [choice["text"] for choice in body["choices"]] == ["a"] * 8 + ["b"] * 8 + ["c"] * 8


async def test_an_error_before_the_first_byte_has_a_status(front: Front) -> None:
    status, error = await front.refusal(
        "/v1/completions", {"prompt": "[fail]", "stream": True, "temperature": 0}
    )

    assert status == 500
    assert (error["code"], error["type"]) == ("engine_error", "server_error")
    assert "told to fail" not in error["message"]


async def test_an_error_after_the_first_byte_is_an_event_and_no_clean_end(front: Front) -> None:
    chunks = await front.stream("[break]", **LONG)

    assert text_of(chunks[:-1]) == "[br"
    assert chunks[-1]["error"]["code"] == "engine_error"


async def test_what_cannot_be_made_text_is_an_error_too(front: Front) -> None:
    chunks = await front.stream("[stray]", **LONG)
    status, error = await front.refusal("/v1/completions", {"prompt": "[stray]", **LONG})

    assert text_of(chunks[:-1]) == "[st"
    assert chunks[-1]["error"]["code"] == error["code"] == "engine_error"
    assert status == 500


async def test_a_client_that_leaves_before_all_of_its_body_has_come_was_never_in(
    front: Front,
) -> None:
    admitted, gone = await front.metric(ADMITTED), front.log.count("client_gone")
    clients = [await half_a_request(front) for _ in range(20)]  # more than it takes at once

    assert (await front.complete("hello", temperature=0))["choices"][0]["text"] == "hello"
    for client in clients:
        client.transport.abort()
    async with asyncio.timeout(DEADLINE):
        while front.log.count("client_gone") < gone + len(clients):
            await asyncio.sleep(0.01)

    assert await front.metric(ADMITTED) == admitted + 1
    assert await front.metric(IN_FLIGHT) == 0


async def test_requests_that_are_refused_were_never_in(front: Front) -> None:
    admitted, refused = await front.metric(ADMITTED), await front.metric(REFUSED)
    hanging = [begin(front, "[hang]") for _ in range(8)]
    await front.in_flight(8)

    refusals = [front.refusal("/v1/completions", {"prompt": "one more"}) for _ in range(20)]
    assert {status for status, _ in await asyncio.gather(*refusals)} == {503}
    assert await front.metric(IN_FLIGHT) == 8
    await leave(*hanging[:3])
    await front.in_flight(5)
    for body in (b"{", {"prompt": 1}, {"prompt": "a", "model": "another"}):
        assert (await front.refusal("/v1/completions", body))[0] in {400, 404}
    assert await front.metric(IN_FLIGHT) == 5
    await leave(*hanging)
    await front.in_flight(0)

    assert await front.metric(ADMITTED) == admitted + 8
    assert await front.metric(REFUSED) == refused + 20


async def test_the_count_is_exact_after_all_kinds_of_ends(front: Front) -> None:
    admitted = await front.metric(ADMITTED)
    too_long = "x" * (MAX_CONTEXT + 1)
    kinds = ["a", "[fail]", "[break]", "[stray]", SLOW, too_long]
    for n in (1, 2):
        hanging = begin(front, "[hang]", n=n)
        await front.in_flight(1)  # it is in, so that it can leave in the end
        tasks = [begin(front, kind, n=n, max_tokens=40) for kind in kinds]
        leaving = asyncio.create_task(leave_a_stream(front, n))
        *ends, _ = await asyncio.gather(*tasks, leaving, return_exceptions=True)
        assert [isinstance(end, dict) for end in ends] == [kind in {"a", SLOW} for kind in kinds]
        await front.in_flight(1)
        await leave(hanging)
        await front.in_flight(0)

    assert await front.metric(ADMITTED) == admitted + 2 * (len(kinds) + 2)
    async with front.control() as control:
        first = await control.GetStatus(GetStatusRequest())
        second = await control.GetStatus(GetStatusRequest())
    assert first.in_flight_seconds == second.in_flight_seconds
    assert 0 < first.idle_age.ToNanoseconds() < second.idle_age.ToNanoseconds()


async def test_health_and_models_are_shown(front: Front) -> None:
    for path in ("/health", "/ping"):
        async with front.get(path) as response:
            assert (response.status, await response.json()) == (200, {"status": "ready"})
    async with front.get("/v1/models") as response:
        assert [model["id"] for model in (await response.json())["data"]] == ["echo-x7f3q2"]
    async with front.get("/v1/models/echo-x7f3q2") as response:
        assert (await response.json())["object"] == "model"


async def test_metrics_tell_of_requests(front: Front) -> None:
    await front.complete("hello", temperature=0)

    async with front.get("/metrics") as response:
        text = await response.text()
    for name in (
        "gen_ai_server_time_to_first_token_seconds_count",
        "gen_ai_server_time_per_output_token_seconds_count",
        "gen_ai_server_request_duration_seconds_count",
        "gen_ai_client_token_usage_sum",
        "engineshed_replica_requests_refused_total",
    ):
        assert name in text
