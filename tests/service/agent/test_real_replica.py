"""The real thing: PyTorch builds an engine, Triton serves it, the front answers."""

import asyncio
import os
import signal
import sys

import aiohttp
from tests.e2e.checkpoints import make_checkpoint

from engineshed import processes
from engineshed.api.agent.v1.agent_service_pb2 import DesiredReplica
from engineshed.api.scheduler.v1.endpoint_service_pb2 import Replica

from .conftest import DEADLINE, ENDED, Host, a_replica, with_goal
from .scripted_scheduler import ScriptedScheduler

AGENT = (sys.executable, "-m", "engineshed.agent")


async def complete(url: str, replica: DesiredReplica) -> str:
    """Return the text of a greedy completion."""
    body = {"model": replica.routing_key, "prompt": "An engine", "max_tokens": 8, "temperature": 0}
    headers = {"authorization": f"Bearer {replica.secret}"}
    timeout = aiohttp.ClientTimeout(total=DEADLINE)
    async with (
        aiohttp.ClientSession(timeout=timeout, headers=headers) as session,
        session.post(f"{url}/v1/completions", json=body) as response,
    ):
        assert response.status == 200, await response.text()
        answer = await response.json()
    text: str = answer["choices"][0]["text"]
    return text


async def test_a_checkpoint_is_served_through_restarts_of_the_agent(
    host: Host, scheduler: ScriptedScheduler
) -> None:
    folder = host.state_dir / "artifacts" / "tiny"
    await asyncio.to_thread(make_checkpoint, folder)
    checkpoint = host.register(folder)
    replica = a_replica(checkpoint, behavior="tiny")
    scheduler.want(replica)
    host.start_agent(*AGENT)

    ready = await host.until(replica, Replica.STATE_READY, *ENDED)
    assert ready.state == Replica.STATE_READY, ready.reason
    assert ready.engine_backend == "torch"
    states = {report.state for report in scheduler.history(replica.replica_id)}
    assert {Replica.STATE_BUILDING, Replica.STATE_LOADING} <= states
    expected = await complete(ready.url, replica)
    triton = processes.identify(host.front_state(replica).triton_pid)

    host.end_agent(signal.SIGKILL)
    assert await complete(ready.url, replica) == expected
    host.start_agent(*AGENT)
    again = await host.until(replica, Replica.STATE_READY)
    assert again.url == ready.url
    assert processes.is_alive(triton)
    assert await complete(ready.url, replica) == expected

    # A second one of the same engine begins to load at once.
    second = a_replica(checkpoint, behavior="second", gpu=1)
    scheduler.want(replica, second)
    await host.until(second, Replica.STATE_READY)
    states = {report.state for report in scheduler.history(second.replica_id)}
    assert Replica.STATE_BUILDING not in states

    # All processes of one told to end by its host: it takes no more requests, then it ends.
    third = a_replica(checkpoint, behavior="third", gpu=2)
    scheduler.want(replica, second, third)
    await host.until(third, Replica.STATE_READY)
    third_front = host.front(third)
    os.killpg(third_front.pid, signal.SIGTERM)
    ended = await host.until(third, *ENDED)
    assert (ended.code, ended.retryable) == ("NODE_RESTARTED", True)
    assert Replica.STATE_DRAINING in {
        report.state for report in scheduler.history(third.replica_id)
    }
    assert not processes.is_alive(third_front)

    # Its Triton killed: the front says so and ends, and nothing is left of it.
    processes.send_signal(triton, signal.SIGKILL)
    failed = await host.until(replica, *ENDED)
    assert (failed.code, failed.retryable) == ("TRITON_DIED", True)

    front = host.front(second)
    relatives = processes.family(front)
    assert len(relatives) >= 3  # Triton and its stub
    scheduler.want(replica, third, with_goal(second, DesiredReplica.GOAL_DRAIN))
    assert (await host.until(second, *ENDED)).state == Replica.STATE_STOPPED
    assert not any(processes.is_alive(process) for process in relatives)
