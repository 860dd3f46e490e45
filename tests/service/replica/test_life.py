import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from engineshed.api.replica.v1.replica_service_pb2 import (
    DrainRequest,
    GetMetricsRequest,
    GetStatusRequest,
    Phase,
)
from engineshed.processes import wait_until_gone

from .conftest import Start
from .fronts import (
    DEADLINE,
    MANIFEST,
    Front,
    few,
    is_deaf_to,
    text_of,
    write_echo_engine,
)

LONG = {"max_tokens": 350, "temperature": 0}


def seconds(duration: Duration) -> float:
    return duration.ToNanoseconds() / 1e9


async def test_its_agent_asks_for_status_and_metrics(front: Front) -> None:
    async with front.control() as control:
        status = await control.GetStatus(GetStatusRequest())
        metrics = await control.GetMetrics(GetMetricsRequest())

    assert status.state == front.state
    assert status.state.phase == Phase.PHASE_READY
    assert status.uptime.ToTimedelta().total_seconds() > 0
    assert "engineshed_replica_requests_in_flight" in metrics.front
    assert "nv_inference_request_success" in metrics.triton


async def test_its_agent_hears_how_long_requests_took_and_since_when_there_is_none(
    start: Start, open_gate: Callable[[], None]
) -> None:
    front = await start()
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(DEADLINE):
        while not front.state.control_address:
            await asyncio.sleep(0.01)
    async with front.control() as control:
        loading = await control.GetStatus(GetStatusRequest())
        assert not loading.HasField("idle_age"), "it could not have had a request yet"
        await front.ready()
        await front.refusal("/v1/completions", {"prompt": 1})
        fresh = await control.GetStatus(GetStatusRequest())
        assert fresh.in_flight_seconds == 0
        assert seconds(fresh.idle_age) > 0

        came = loop.time()
        running = [asyncio.create_task(front.complete("x[gate]", **LONG)) for _ in range(3)]
        await front.in_flight(3)
        there = loop.time()
        first = await control.GetStatus(GetStatusRequest())
        busy = await control.GetStatus(GetStatusRequest())
        assert (busy.in_flight, seconds(busy.idle_age)) == (3, 0)
        assert busy.in_flight_seconds > first.in_flight_seconds > 0
        leaving = loop.time()
        open_gate()
        await asyncio.gather(*running)
        await front.in_flight(0)
        gone = loop.time()
        done = await control.GetStatus(GetStatusRequest())
        assert 3 * (leaving - there) <= done.in_flight_seconds <= 3 * (gone - came)
        assert 0 < seconds(done.idle_age) <= loop.time() - leaving
        again = await control.GetStatus(GetStatusRequest())
        assert again.in_flight_seconds == done.in_flight_seconds
        assert seconds(again.idle_age) > seconds(done.idle_age)


async def test_the_control_side_demands_the_secret(front: Front) -> None:
    async with front.control("wrong") as control:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await control.GetStatus(GetStatusRequest())

    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_draining_finishes_what_is_there_and_refuses_the_rest(
    start: Start, open_gate: Callable[[], None]
) -> None:
    front = await (await start()).ready()
    running = asyncio.create_task(front.stream("x[gate]", **LONG))
    await front.in_flight(1)

    async with front.control() as control:
        assert (await control.Drain(DrainRequest())).in_flight == 1
        assert (await control.Drain(DrainRequest())).in_flight == 1
        assert front.state.phase == Phase.PHASE_DRAINING
        status, error = await front.refusal("/v1/completions", {"prompt": "late"})
        assert (status, error["code"]) == (503, "draining")
        open_gate()
        assert (await running)[-1] is None
        await front.in_flight(0)  # a moment after its last byte
        assert (await control.GetStatus(GetStatusRequest())).in_flight == 0


async def test_when_its_host_shuts_down_it_finishes_what_is_there_and_refuses_the_rest(
    start: Start, open_gate: Callable[[], None]
) -> None:
    front = await (await start()).ready()
    family = front.family()
    running = asyncio.create_task(front.stream("x[gate]", **LONG))
    whole = asyncio.create_task(front.complete("y[gate]", **LONG))
    await front.in_flight(2)

    os.killpg(front.process.pid, signal.SIGTERM)  # all processes get it, its Triton too
    await front.reaches(Phase.PHASE_DRAINING)
    assert is_deaf_to(signal.SIGTERM, front.state.triton_pid), "else it ends in a moment"
    os.killpg(front.process.pid, signal.SIGTERM)  # once more: that changes nothing
    async with front.control() as control:
        status = await control.GetStatus(GetStatusRequest())
        assert (status.state.phase, status.in_flight) == (Phase.PHASE_DRAINING, 2)
    status_code, error = await front.refusal("/v1/completions", {"prompt": "late"})
    assert (status_code, error["code"]) == (503, "draining")
    open_gate()

    events = await running
    assert (text_of(events), events[-1]) == ("x[gate]", None)
    assert (await whole)["choices"][0]["text"] == "y[gate]"
    assert await front.exits() == 0
    assert front.state.phase == Phase.PHASE_STOPPED
    assert await wait_until_gone(family, DEADLINE)


async def test_when_its_host_shuts_down_it_is_there_until_its_agent_has_heard_of_it(
    start: Start,
) -> None:
    front = await (await start()).ready()
    async with front.control() as control:
        await control.GetStatus(GetStatusRequest())

        front.process.send_signal(signal.SIGTERM)
        await front.reaches(Phase.PHASE_DRAINING)
        status = await control.GetStatus(GetStatusRequest())

    assert status.state.phase == Phase.PHASE_DRAINING
    assert await front.exits() == 0
    assert front.state.phase == Phase.PHASE_STOPPED


async def test_when_its_host_shuts_down_clients_that_leave_do_not_keep_it(start: Start) -> None:
    front = await (await start()).ready()
    hanging = asyncio.create_task(front.complete("[hang]", **LONG))
    async with front.streaming("x[forever][slow]", **LONG):
        await front.in_flight(2)
        front.process.send_signal(signal.SIGTERM)
        await front.reaches(Phase.PHASE_DRAINING)
    hanging.cancel()

    assert await front.exits() == 0
    assert "requests_unfinished" not in front.log


@pytest.mark.parametrize("drains", [False, True])
async def test_told_to_stop_it_says_so_to_streams_and_leaves_nothing_behind(
    start: Start, *, drains: bool
) -> None:
    front = await (await start()).ready()
    family = front.family()
    waiting = asyncio.create_task(front.refusal("/v1/completions", {"prompt": "[hang]", **LONG}))
    async with front.streaming("x[forever][slow]", **LONG) as stream:
        await front.in_flight(2)
        if drains:
            front.process.send_signal(signal.SIGTERM)
            await front.reaches(Phase.PHASE_DRAINING)
        front.process.send_signal(signal.SIGINT)
        *_, last = [event async for event in stream]

    assert last["error"]["code"] == "engine_unavailable"
    assert (await waiting)[0] == 503
    assert await front.exits() == 0
    assert front.state.phase == Phase.PHASE_STOPPED
    assert await wait_until_gone(family, DEADLINE)


async def test_when_triton_dies_it_tells_and_ends(start: Start) -> None:
    front = await (await start()).ready()
    family = front.family()
    async with front.streaming("x[forever][slow]", **LONG) as stream:
        front.signal_triton(signal.SIGKILL)
        *_, last = [event async for event in stream]

    assert last["error"]["code"] == "engine_unavailable"
    assert await front.exits() == 1
    assert (front.state.phase, front.state.code) == (Phase.PHASE_FAILED, "TRITON_DIED")
    assert front.state.retryable
    assert await wait_until_gone(family, DEADLINE)


async def test_when_it_is_killed_its_triton_dies_with_it(start: Start) -> None:
    front = await (await start()).ready()
    family = front.family()
    assert len(family) >= 3  # the front, Triton, and Triton's stub

    front.process.send_signal(signal.SIGKILL)

    assert await wait_until_gone(family, DEADLINE)


async def test_when_the_engine_ends_beneath_a_living_triton_it_notices(start: Start) -> None:
    front = await (await start()).ready()

    status, _ = await front.refusal("/v1/completions", {"prompt": "[die]", "temperature": 0})

    assert status == 500
    assert await front.exits() == 1
    assert (front.state.phase, front.state.code) == (Phase.PHASE_FAILED, "TRITON_UNRESPONSIVE")


async def test_an_engine_that_cannot_be_loaded_fails_with_tritons_reason(
    start: Start, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("broken")
    front = await start(write_echo_engine(folder, load_error="no such weights"))

    state = await front.reaches(Phase.PHASE_FAILED)
    assert state.code == "ENGINE_LOAD_FAILED"
    assert "no such weights" in state.reason
    assert await front.exits() == 1


async def test_an_engine_without_a_tokenizer_fails_for_good(
    start: Start, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("mute")
    front = await start(write_echo_engine(folder, few(MANIFEST, tokenizer="")))

    state = await front.reaches(Phase.PHASE_FAILED)
    assert (state.code, state.retryable) == ("NO_TOKENIZER", False)


async def test_a_damaged_tokenizer_fails_for_good(
    start: Start, tmp_path_factory: pytest.TempPathFactory
) -> None:
    engine, repository = write_echo_engine(tmp_path_factory.mktemp("damaged"))
    (engine / "tokenizer" / "tokenizer.json").write_text("{}")
    front = await start((engine, repository))

    state = await front.reaches(Phase.PHASE_FAILED)
    assert (state.code, state.retryable) == ("TOKENIZER_INVALID", False)


async def test_without_an_engine_it_fails(start: Start, tmp_path: Path) -> None:
    front = await start((tmp_path / "nowhere", tmp_path))

    assert await front.exits() == 1
    assert front.state.code == "ENGINE_INVALID"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_while_it_loads_it_answers_and_can_be_stopped(
    start: Start, number: signal.Signals
) -> None:
    front = await start()
    async with asyncio.timeout(DEADLINE):
        while not front.state.triton_pid:
            await asyncio.sleep(0.01)
    os.kill(front.state.triton_pid, signal.SIGSTOP)
    family = front.family()

    assert front.state.phase == Phase.PHASE_LOADING
    status, error = await front.refusal("/v1/completions", {"prompt": "a"})
    assert (status, error["code"]) == (503, "loading")
    async with front.control() as control:
        assert (await control.GetStatus(GetStatusRequest())).state.phase == Phase.PHASE_LOADING

    front.process.send_signal(number)
    assert await front.exits() == 0
    assert front.state.phase == Phase.PHASE_STOPPED
    assert await wait_until_gone(family, DEADLINE)
