"""One scheduler for all tests that leave it alone; each has its own region and organization."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from itertools import count
from pathlib import Path

import pytest
from tests import metrics
from tests.service.scheduler.scripted_agent import ScriptedAgent
from tests.service.scheduler.stack import Stack, Tenant, eventually

_regions = count(1)

Join = Callable[..., Awaitable[ScriptedAgent]]


@pytest.fixture(scope="session")
def shared_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    directory = tmp_path_factory.mktemp("scheduler")
    settings = {
        "ENGINESHED_CHECKPOINT_POLL_S": "0.2",
        "ENGINESHED_SCALE_TARGET": "2",
        "ENGINESHED_SCALE_UP_WINDOW_S": "1",
        "ENGINESHED_SCALE_DOWN_WINDOW_S": "2",
        "ENGINESHED_RECLAIM_IDLE_S": "0.5",
        **metrics.listening(directory),
    }
    stack = Stack(directory, **settings)
    stack.start()
    stack.wait_ready()
    yield stack
    stack.close()


@pytest.fixture
def own_stack(tmp_path: Path, database_settings: dict[str, str]) -> Iterator[Stack]:
    """Return a stack to kill things in; nodes are lost after two seconds of silence."""
    settings = {"ENGINESHED_LEASE_S": "2", "ENGINESHED_CHECKPOINT_POLL_S": "0.2"}
    stack = Stack(tmp_path, **settings, **database_settings)
    stack.start()
    stack.wait_ready()
    yield stack
    stack.close()


@pytest.fixture
def stack(request: pytest.FixtureRequest) -> Stack:
    """Return the test's own stack where it asks for one, else the shared one."""
    name = "own_stack" if "own_stack" in request.fixturenames else "shared_stack"
    stack: Stack = request.getfixturevalue(name)
    return stack


@pytest.fixture
def region() -> str:
    return f"region-{next(_regions)}"


@pytest.fixture
async def tenant(stack: Stack) -> AsyncIterator[Tenant]:
    tenant = stack.tenant()
    yield tenant
    await tenant.close()


@pytest.fixture
async def join(stack: Stack, region: str) -> AsyncIterator[Join]:
    """Let nodes join the test's region; none of them may ever have been misled."""
    agents: list[ScriptedAgent] = []

    async def join(**inventory: object) -> ScriptedAgent:
        agent = stack.agent(**{"region": region, **inventory})  # type: ignore[arg-type]  # the inventory's fields
        agents.append(agent.start())
        await eventually("the desired state", lambda: agent.received)
        return agent

    yield join
    for agent in agents:
        await agent.stop()
        assert agent.faults == []
