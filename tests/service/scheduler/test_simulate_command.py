"""`shed simulate` against a real scheduler."""

import asyncio
import json
import os
import sqlite3
import subprocess
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path

import pytest
from tests.service.bus.conftest import a_free_port
from tests.service.cli.stand_in import SHED
from tests.service.scheduler.conftest import Join
from tests.service.scheduler.stack import Stack, Tenant

from engineshed.api.scheduler.v1 import endpoint_service_pb2 as pb
from engineshed.api.scheduler.v1.plan_turn_pb2 import PlanTurn

E = pb.Endpoint

Shed = Callable[..., Awaitable[subprocess.CompletedProcess[str]]]


@pytest.fixture
def shed(stack: Stack, tenant: Tenant, tmp_path: Path) -> Shed:
    """Return the command of somebody who is an operator and of the tenant's organization."""
    token = stack.catalog.token(tenant.org_id, "operator", "endpoints:read")

    async def shed(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        known = {
            "PATH": os.environ["PATH"],
            "COLUMNS": "200",
            "ENGINESHED_STATE_DIR": str(tmp_path),
            "ENGINESHED_SCHEDULER_ADDRESS": stack.target,
            "ENGINESHED_TOKEN": token,
            **environment,
        }
        return await asyncio.to_thread(
            subprocess.run,
            [str(SHED), "simulate", *words],
            env=known,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return shed


async def running(tenant: Tenant, region: str, **fields: object) -> str:
    endpoint_id = (await tenant.create(region, **fields)).endpoint_id
    await tenant.until(endpoint_id, E.STATE_RUNNING)
    return endpoint_id


@pytest.mark.usefixtures("own_stack")  # nothing of other tests may wait or move
async def test_it_shows_what_moves_who_waits_and_which_nodes_change(
    tenant: Tenant, join: Join, region: str, shed: Shed
) -> None:
    drained = await join(gpus=2, hostname=f"{region}-a")
    endpoint_id = await running(tenant, region, gpu_count=2, name="large")
    other = await join(gpus=1, hostname=f"{region}-b")
    small = await running(tenant, region, name="small")

    said = await shed(
        *("--drain", drained.node_id, "--lose", f"{region}-b"),
        *("--add-nodes", "1", "--gpu-type", "cpu", "--gpus", "2", "--region", region),
        *("--min-replicas", "small=2", "--max-replicas", f"{small}=3"),
    )

    assert said.returncode == 0, said.stderr
    moves, waits, nodes = said.stdout.split("\n\n")
    assert moves.startswith("2 replicas move\n")
    large = next(line for line in moves.splitlines() if line.startswith(endpoint_id))
    assert large.split()[1:5] == ["large", "2", f"{region}-a", "added"]
    assert "its node is being drained" in large
    waiting = next(line for line in waits.splitlines() if line.startswith(small))
    assert waiting.split()[1:4] == ["small", "2", "no"]
    assert waiting.endswith(f"waiting for a free GPU on a cpu node in {region}")
    assert nodes.startswith("2 nodes change\n")
    assert other.node_id not in nodes, "a node that died is no more"


async def test_it_prints_json(tenant: Tenant, join: Join, region: str, shed: Shed) -> None:
    agent = await join(gpus=1)
    endpoint_id = await running(tenant, region)

    said = await shed("--lose", agent.node_id, "-o", "json")

    told = json.loads(said.stdout)
    (move,) = told["moves"]
    assert (move["endpoint_id"], move["from_node_id"]) == (endpoint_id, agent.node_id)
    assert move["to_node_id"] == ""
    assert [wait["waits_now"] for wait in told["waits"] if wait["endpoint_id"] == endpoint_id] == [
        False
    ]
    assert told["settled"] is True


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--drain", "nobody"], "no node is called 'nobody'; see: shed nodes"),
        (["--min-replicas", "nobody=2"], "no endpoint is called 'nobody'"),
        (["--min-replicas", "bot"], "'bot' is not ENDPOINT=N, as bot=4"),
        (["--min-replicas", "bot=2", "--min-replicas", "bot=3"], "bot is there twice"),
        (["--add-nodes", "1"], "--add-nodes and --gpu-type go together"),
        (["--since", "1h"], "--since and --until go with --replay"),
        (["--replay", "--drain", "gpu-1"], "--replay is about the past"),
        (["--replay", "--since", "yesterday"], "'yesterday' is no time"),
        (["--drain", "node_01K00000000000000000000000"], "there is no node node_01K"),
    ],
)
async def test_what_cannot_be_simulated_is_said_on_one_line(
    tenant: Tenant, join: Join, shed: Shed, words: list[str], why: str
) -> None:
    await join()

    said = await shed(*words)

    assert said.returncode != 0
    assert why in " ".join(said.stderr.replace("│", " ").split())
    assert "Traceback" not in said.stderr


async def test_without_an_address_it_says_what_to_set(shed: Shed) -> None:
    said = await shed(ENGINESHED_SCHEDULER_ADDRESS="")

    assert said.returncode == 1
    assert "Set ENGINESHED_SCHEDULER_ADDRESS" in said.stderr


async def test_where_no_scheduler_answers_it_says_what_to_look_at(shed: Shed) -> None:
    said = await shed(ENGINESHED_SCHEDULER_ADDRESS=f"127.0.0.1:{a_free_port()}")

    assert said.returncode == 1
    assert "no scheduler that leads can be reached at 127.0.0.1" in said.stderr


async def test_who_is_no_operator_is_refused(stack: Stack, tenant: Tenant, shed: Shed) -> None:
    said = await shed(ENGINESHED_TOKEN=stack.catalog.token(tenant.org_id, "admin"))

    assert said.returncode == 1
    assert "operator" in said.stderr


async def test_a_past_that_comes_out_otherwise_is_shown_and_fails(
    own_stack: Stack, tenant: Tenant, join: Join, region: str, shed: Shed
) -> None:
    agent = await join()
    nothing = await shed("--replay")
    endpoint_id = await running(tenant, region)

    same = await shed("--replay", "--since", "1h")
    with closing(sqlite3.connect(own_stack.directory / "scheduler.db")) as database, database:
        (data,) = database.execute("SELECT data FROM plans").fetchone()
        turn = PlanTurn.FromString(data)
        turn.decisions[0].assign.spots[0].gpus[:] = [3]
        database.execute("UPDATE plans SET data = ?", (turn.SerializeToString(),))
    other = await shed("--replay")

    assert (nothing.returncode, nothing.stdout) == (0, "no plan of that time is kept\n")
    assert (same.returncode, other.returncode) == (0, 1)
    assert "1 plan with 1 decision made again: all came out the same" in same.stdout
    assert "1 came out otherwise" in other.stdout
    assert f"- {endpoint_id} gets {agent.node_id} GPU 3" in other.stdout
    assert f"+ {endpoint_id} gets {agent.node_id} GPU 0" in other.stdout
