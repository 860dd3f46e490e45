"""Plans are written with what they decide: never later, once, and whatever happens to an append."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from engineshed import ids
from engineshed.api.scheduler.v1.plan_turn_pb2 import PlanTurn
from engineshed.eventstore import EventStore, Metadata, NotLeaderError, StoreUnavailableError
from engineshed.scheduler import plan_store
from engineshed.scheduler.domain.commands import Create, Update
from engineshed.scheduler.domain.errors import RoutingKeyTakenError
from engineshed.scheduler.domain.node import Greet, Inventory, Miss
from engineshed.scheduler.domain.plan import Postpone
from engineshed.scheduler.domain.replica import Checkpoint, Serving
from engineshed.scheduler.domain.scaling import Scaling
from engineshed.scheduler.domain.score import Policy
from engineshed.scheduler.endpoints import Endpoints
from engineshed.scheduler.journal import Journal, Seen, together
from engineshed.scheduler.nodes import Nodes
from engineshed.scheduler.plan_log import PlanLog
from engineshed.scheduler.plan_store import PlanKey
from engineshed.scheduler.store import open_store

NOW = datetime(2026, 1, 1, tzinfo=UTC)
BY_TEST = Metadata("test", "org_1")
DECIDED = [Postpone("ep_1", "waiting for the test")]


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[EventStore]:
    store = await open_store(f"sqlite:///{tmp_path}/scheduler.db")
    yield store
    await store.close()


@pytest.fixture
async def journal(store: EventStore) -> Journal:
    return await Journal.open(store, term=7)


@pytest.fixture
def plans(journal: Journal) -> PlanLog:
    return PlanLog(journal, Policy())


async def kept(journal: Journal) -> list[PlanTurn]:
    return [plan.turn for plan in await plan_store.page(journal.store, PlanKey(0, 0), 10_000)]


async def create(journal: Journal, routing_key: str) -> str:
    """Record an endpoint; so there is an append."""
    command = Create(
        endpoint_id=ids.new(ids.ENDPOINT),
        org_id="org_1",
        name="bot",
        description="",
        model_name="custom",
        flavor_name="base",
        checkpoint=Checkpoint("ckpt_1", "sha256:1", "checkpoints/ckpt_1"),
        gpu_type="cpu",
        gpu_count=1,
        region="local",
        scaling=Scaling(1, 1),
        serving=Serving(),
        routing_key=routing_key,
    )
    await Endpoints(journal).command(command.endpoint_id, command, BY_TEST)
    return command.endpoint_id


async def test_a_plan_is_written_with_the_next_append(journal: Journal, plans: PlanLog) -> None:
    await create(journal, "a")
    plans.note(DECIDED, NOW)
    assert await kept(journal) == []

    await create(journal, "b")

    (turn,) = await kept(journal)
    assert (turn.term, turn.position, list(turn.ahead), turn.whole) == (7, 1, [], True)
    assert turn.decisions[0].postpone.reason == "waiting for the test"


async def test_a_plan_that_decides_nothing_is_not_kept(journal: Journal, plans: PlanLog) -> None:
    plans.note([], NOW)
    await create(journal, "a")

    assert await kept(journal) == []


async def test_an_append_that_is_refused_leaves_it_to_the_next_one(
    journal: Journal, plans: PlanLog
) -> None:
    await create(journal, "a")
    plans.note(DECIDED, NOW)
    with pytest.raises(RoutingKeyTakenError):
        await create(journal, "a")
    assert await kept(journal) == []
    plans.note(DECIDED, NOW)

    await create(journal, "b")

    assert [turn.whole for turn in await kept(journal)] == [True, False]


async def test_what_was_committed_though_nobody_could_say_so_is_there_once(
    journal: Journal, plans: PlanLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans.note(DECIDED, NOW)
    append = journal.store.append

    async def append_and_fail(*args: object, **kwargs: object) -> None:
        await append(*args, **kwargs)  # type: ignore[arg-type]  # as they were given
        raise StoreUnavailableError("the connection broke")

    with monkeypatch.context() as broken:
        broken.setattr(journal.store, "append", append_and_fail)
        with pytest.raises(StoreUnavailableError):
            await create(journal, "a")
    await create(journal, "b")

    assert len(await kept(journal)) == 1
    with pytest.raises(NotLeaderError):  # the view lacks what the log has
        await journal.watch()


async def test_it_tells_what_agents_have_said_since_the_plan_before(
    journal: Journal, plans: PlanLog
) -> None:
    nodes, view = Nodes(journal), journal.view
    node_ids = sorted(ids.new(ids.NODE) for _ in range(2))
    for node_id in node_ids:
        await nodes.command(node_id, Greet(node_id, Inventory("host", "local", "cpu", 4)))
        view.note_report(node_id)
    plans.note(DECIDED, NOW)
    view.note_report(node_ids[0], {2, 3})
    view.note_report(node_ids[1])  # no news
    plans.note(DECIDED, NOW)
    plans.note(DECIDED, NOW)
    view.note_report(node_ids[0])
    await nodes.command(node_ids[0], Miss(NOW))
    plans.note(DECIDED, NOW)
    await create(journal, "a")

    told = [
        [(one.node_id, list(one.foreign_gpus), one.unheard) for one in turn.nodes]
        for turn in await kept(journal)
    ]
    first, second = node_ids
    assert told == [
        [(first, [], False), (second, [], False)],
        [(first, [2, 3], False)],
        [],
        [(first, [], True)],
    ]


async def test_now_and_then_a_plan_says_everything(
    journal: Journal, plans: PlanLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engineshed.scheduler.plan_log._WHOLE_EVERY", 2)
    for _ in range(4):
        plans.note(DECIDED, NOW)
    await create(journal, "a")

    assert [turn.whole for turn in await kept(journal)] == [True, False, True, False]


async def test_what_is_known_of_the_log_grows_with_it(store: EventStore, journal: Journal) -> None:
    endpoint_ids = [await create(journal, f"bot-{number}") for number in range(3)]
    endpoints = Endpoints(journal)
    await together(endpoints.command(one, Update(name="new"), BY_TEST) for one in endpoint_ids)

    assert (journal.seen.position, journal.seen.ahead) == (6, set())
    watching = asyncio.ensure_future(journal.watch())
    await asyncio.sleep(0)
    assert not watching.done(), "nothing is missing"
    watching.cancel()
    assert (await Journal.open(store, term=8)).seen.position == 6


def test_what_is_known_ahead_of_the_rest_is_told_apart() -> None:
    seen = Seen()
    for position in (1, 4, 3):
        seen.add(position)
    assert (seen.position, seen.ahead) == (1, {3, 4})

    seen.add(2)

    assert (seen.position, seen.ahead) == (4, set())
