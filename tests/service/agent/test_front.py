"""Asking a front how it is, also when it does not answer."""

import asyncio
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import grpc
import pytest
from google.protobuf import json_format

from engineshed.agent import front as front_module
from engineshed.agent.front import Front
from engineshed.api.replica.v1 import replica_service_pb2 as pb

from .conftest import eventually

PROGRAM = Path(__file__).with_name("stand_in_front.py")
REPLICA = "rep_00000000000000000000000001"


class Process:
    """A stand-in front that runs."""

    def __init__(self, directory: Path) -> None:
        spec = pb.ReplicaSpec(replica_id=REPLICA, secret="the-secret")
        (directory / "spec.json").write_text(json_format.MessageToJson(spec))
        self.directory = directory
        self.process = subprocess.Popen([sys.executable, PROGRAM, "--directory", directory])

    async def address(self) -> str:
        status = self.directory / "status.json"
        await eventually(lambda: status.exists() and "controlAddress" in status.read_text())
        return json_format.Parse(status.read_bytes(), pb.ReplicaState()).control_address


@pytest.fixture
def process(tmp_path: Path) -> Iterator[Process]:
    process = Process(tmp_path)
    yield process
    process.process.send_signal(signal.SIGCONT)
    process.process.terminate()
    process.process.wait()


@pytest.fixture
async def front(process: Process, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Front]:
    monkeypatch.setattr(front_module, "DEADLINE_SECONDS", 0.3)
    front = Front(REPLICA, await process.address(), "the-secret", lambda: None)
    yield front
    await front.close()


async def test_what_a_front_says_is_known_soon(front: Front, process: Process) -> None:
    await eventually(lambda: front.state is not None and front.state.phase == pb.PHASE_READY)

    (process.directory / "in_flight").write_text("5")
    await eventually(lambda: front.in_flight == 5)

    await front.drain()
    await eventually(lambda: front.state is not None and front.state.phase == pb.PHASE_DRAINING)


async def test_what_a_front_says_of_its_load_is_passed_on_while_it_answers(
    front: Front, process: Process
) -> None:
    (process.directory / "in_flight_seconds").write_text("70")
    (process.directory / "idle").write_text("1000")
    await eventually(lambda: (front.idle_seconds or 0) > 1000)
    await eventually(lambda: front.in_flight_seconds == 70)

    process.process.send_signal(signal.SIGSTOP)
    await eventually(lambda: front.idle_seconds is None)
    assert front.in_flight_seconds == 70

    process.process.send_signal(signal.SIGCONT)
    await eventually(lambda: front.idle_seconds is not None)


async def test_that_a_front_is_idle_for_longer_is_no_news(process: Process) -> None:
    news: list[None] = []
    front = Front(REPLICA, await process.address(), "the-secret", lambda: news.append(None))
    await eventually(lambda: front.state is not None and front.state.phase == pb.PHASE_READY)
    heard = len(news)

    (process.directory / "idle").write_text("1000")
    await eventually(lambda: (front.idle_seconds or 0) > 1000)
    await front.close()

    assert len(news) == heard


async def test_questions_in_a_row_that_stay_unanswered_are_counted(
    front: Front, process: Process
) -> None:
    await eventually(lambda: front.state is not None)

    process.process.send_signal(signal.SIGSTOP)
    await eventually(lambda: front.missed >= 3)
    assert front.state is not None, "what it said last still counts"

    process.process.send_signal(signal.SIGCONT)
    await eventually(lambda: front.missed == 0)


async def test_a_question_that_is_refused_at_once_counts_no_sooner(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = await process.address()
    monkeypatch.setattr(front_module, "DEADLINE_SECONDS", 0.3)
    loop = asyncio.get_running_loop()
    began = loop.time()
    front = Front(REPLICA, address, "another-secret", lambda: None)

    await eventually(lambda: front.missed >= 2)
    took = loop.time() - began
    await front.close()

    assert took >= 0.6


async def test_another_replica_on_the_same_port_is_not_taken_for_this_one(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = await process.address()
    monkeypatch.setattr(front_module, "DEADLINE_SECONDS", 0.3)
    front = Front("rep_00000000000000000000000002", address, "the-secret", lambda: None)

    await eventually(lambda: front.missed >= 1)
    assert front.state is None
    await front.close()


async def test_draining_a_front_that_does_not_answer_raises(front: Front, process: Process) -> None:
    process.process.send_signal(signal.SIGSTOP)

    with pytest.raises(grpc.aio.AioRpcError):
        await front.drain()
