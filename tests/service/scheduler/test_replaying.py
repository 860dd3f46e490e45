"""Whatever a fleet goes through, its plans are kept and come out the same when made again."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import grpc
import pytest
from tests.service.eventstore.servers import ON_EACH_DATABASE
from tests.service.scheduler.conftest import Join
from tests.service.scheduler.replays import replayed, require_reproducible
from tests.service.scheduler.stack import Stack, Tenant
from tests.service.scheduler.test_nodes import Operator
from tests.service.scheduler.test_rollouts import redeploying, rolled_out
from tests.service.scheduler.test_scaling import load, ready, scaling

from engineshed.api.scheduler.v1 import endpoint_service_pb2 as pb
from engineshed.api.scheduler.v1.node_service_pb2 import Node
from engineshed.api.scheduler.v1.plan_turn_pb2 import PlanTurn
from engineshed.runtime import utc_now

E = pb.Endpoint


@pytest.fixture
def own_stack(tmp_path: Path, database_settings: dict[str, str]) -> Iterator[Stack]:
    """Return a stack in which nodes are soon lost, and load soon tells."""
    settings = {
        "ENGINESHED_LEASE_S": "2",
        "ENGINESHED_CHECKPOINT_POLL_S": "0.2",
        "ENGINESHED_SCALE_TARGET": "2",
        "ENGINESHED_SCALE_UP_WINDOW_S": "1",
        "ENGINESHED_SCALE_DOWN_WINDOW_S": "2",
        "ENGINESHED_RECLAIM_IDLE_S": "0.5",
    }
    stack = Stack(tmp_path, **settings, **database_settings)
    stack.start()
    stack.wait_ready()
    yield stack
    stack.close()


@ON_EACH_DATABASE
async def test_a_long_history_with_several_leaders_is_reproduced(
    own_stack: Stack, tenant: Tenant, join: Join, region: str
) -> None:
    agents = [await join(gpus=2) for _ in range(2)]
    await own_stack.publish_tokens()
    operator = Operator(own_stack.tenant("operator", "endpoints:read"))

    # Creations that wait and such that must not, and a rollout.
    bot = await tenant.create(region)
    await tenant.until(bot.endpoint_id, E.STATE_RUNNING)
    at_once = await tenant.create(region, on_no_capacity=pb.ON_NO_CAPACITY_FAIL)
    assert at_once.replicas
    request = redeploying(bot.endpoint_id, gpu_count=2)
    await tenant.endpoints.UpdateEndpoint(request)
    large = await tenant.create(region, gpu_count=2)
    await tenant.until(at_once.endpoint_id, E.STATE_RUNNING)

    # Another leader, and a host that is lost and returns.
    own_stack.restart()
    await tenant.delete(at_once.endpoint_id)
    await agents[0].stop()
    await operator.until(agents[0].node_id, Node.STATE_LOST)
    agents[0].start()
    await rolled_out(tenant, bot.endpoint_id)
    await tenant.until(large.endpoint_id, E.STATE_RUNNING)

    # Load adds a replica, which has to go for a reserved one of another endpoint.
    await tenant.stop(large.endpoint_id)
    elastic = await tenant.create(region, scaling=scaling(1, 2))
    await ready(tenant, elastic.endpoint_id, 1)
    for agent in agents:
        load(agent, 5)
    await ready(tenant, elastic.endpoint_id, 2)
    for agent in agents:
        agent.loads = {}
    other = await tenant.create(region)
    await tenant.until(other.endpoint_id, E.STATE_RUNNING)

    # A host is drained while a third leader takes over.
    more = await join(gpus=4)
    await operator.drain(agents[0].node_id)
    own_stack.restart()
    await operator.until_empty(agents[0].node_id)
    await operator.tenant.close()

    last = await require_reproducible(own_stack)
    assert more.running()
    assert last.decisions >= 10


async def test_it_can_be_asked_for_some_of_the_history(
    own_stack: Stack, tenant: Tenant, join: Join, region: str
) -> None:
    await join(gpus=4)
    for _ in range(2):
        await tenant.until((await tenant.create(region)).endpoint_id, E.STATE_RUNNING)
    between = utc_now()
    await tenant.until((await tenant.create(region)).endpoint_id, E.STATE_RUNNING)

    first, *_, everything = await replayed(own_stack)
    earlier = (await replayed(own_stack, end=between))[-1]
    later = (await replayed(own_stack, start=between))[-1]

    assert (first.turns, first.turns_total) == (0, everything.turns), "it tells how far it is"
    assert earlier.turns + later.turns == everything.turns
    assert (later.turns, later.turns_total, later.decisions) == (1, 1, 1)
    assert not everything.differing_turns + earlier.differing_turns + later.differing_turns


async def test_where_nothing_is_kept_nothing_is_made_again(own_stack: Stack) -> None:
    now = utc_now()

    assert (await replayed(own_stack))[-1].turns_total == 0
    with pytest.raises(grpc.aio.AioRpcError, match="end_time"):
        await replayed(own_stack, start=now, end=now - timedelta(seconds=1))


def other_gpu(turn: PlanTurn) -> None:
    turn.decisions[0].assign.spots[0].gpus[:] = [3]


def other_why(turn: PlanTurn) -> None:
    turn.decisions[0].assign.spots[0].why.candidates[0].score += 1


def other_position(turn: PlanTurn) -> None:
    turn.position = 1


def unknown_position(turn: PlanTurn) -> None:
    turn.position = 1_000_000


TAMPERINGS: tuple[Callable[[PlanTurn], None], ...] = (
    other_gpu,
    other_why,
    other_position,
    unknown_position,
)


async def test_a_record_that_was_changed_or_taken_away_is_found(
    own_stack: Stack, tenant: Tenant, join: Join, region: str
) -> None:
    await join(gpus=4)
    for _ in range(3):
        await tenant.until((await tenant.create(region)).endpoint_id, E.STATE_RUNNING)
    with closing(sqlite3.connect(own_stack.directory / "scheduler.db")) as database:
        key, data = database.execute(
            "SELECT number, data FROM plans ORDER BY term, number LIMIT 1 OFFSET 1"
        ).fetchone()

        def write(turn: PlanTurn) -> None:
            with database:
                database.execute(
                    "UPDATE plans SET data = ? WHERE number = ?", (turn.SerializeToString(), key)
                )

        for tamper in TAMPERINGS:
            turn = PlanTurn.FromString(data)
            tamper(turn)
            write(turn)
            last = (await replayed(own_stack))[-1]
            assert last.differing_turns, tamper
            assert last.differences[0].recorded
        write(PlanTurn.FromString(data))
        await require_reproducible(own_stack)
        with database:
            database.execute("DELETE FROM plans WHERE number = ?", (key,))
    last = (await replayed(own_stack))[-1]
    assert last.differing_turns
    assert "which no plan decided" in " ".join(last.differences[0].recorded)
