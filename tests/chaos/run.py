"""A whole run: start everything, load it, strike, wait until it has settled, count."""

import asyncio
import random
import signal
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import aiohttp
from tests.chaos.audit import Audit, Findings, Subscriber
from tests.chaos.clients import ENDPOINTS, Api, Asker, Json, Owner, Tokens
from tests.chaos.promise import Promise
from tests.chaos.schedule import schedule
from tests.chaos.strike import Striker, victims
from tests.chaos.world import HARDWARE, Shape, World
from tests.service.scheduler.scripted_agent import ScriptedAgent

from engineshed.bus import Bus

PAPER: Final = "paper"  # a region whose agents only say that they run replicas

_READY_S: Final = 120.0
_LAST_ANSWERS_S: Final = 180.0  # for commands that are still unanswered when the faults are over

say: Final = partial(print, flush=True)

_MODEL: Final = {"model_name": "engineshed/sample", "serving": {"precision": "float32"}}
_REAL: Final = {**_MODEL, "region": "local", "gpu_type": HARDWARE}
_ON_PAPER: Final = {**_MODEL, "region": PAPER, "gpu_type": "cpu"}


@dataclass(frozen=True, slots=True)
class Options:
    """What a run is."""

    seconds: float
    seed: int
    shape: Shape
    on_paper: int = 4  # owners of endpoints whose replicas are only said to run
    for_real: int = 1  # owners of endpoints whose replicas run


@dataclass(frozen=True, slots=True)
class Result:
    """What came of it."""

    acknowledged: int
    promise: Promise
    findings: Findings
    surprises: Sequence[str]
    refused: Sequence[str]
    fell: Sequence[str]
    dropped: int

    def rows(self) -> list[tuple[str, int, bool]]:
        """Return what was counted, and whether it must be zero."""
        events, findings = self.findings.events, self.findings
        return [
            ("commands acknowledged", self.acknowledged, False),
            ("commands refused", len(self.refused), False),
            ("commands answered with an internal error", len(self.surprises), True),
            ("commands acknowledged, but not in effect", len(findings.not_in_effect), True),
            ("tokens good that do not work, or revoked that do", len(findings.wrong_tokens), True),
            ("events committed", events.committed, False),
            ("events published", events.published, False),
            ("events missing", len(events.missing), True),
            ("events altered", len(events.altered), True),
            ("events never committed", len(events.never_committed), True),
            ("events out of order", len(events.out_of_order), True),
            ("events stored again, dropped by their id", events.repeated, False),
            ("events delivered again, dropped by their id", self.dropped, False),
            ("events that a durable consumer missed", len(findings.not_consumed), True),
            ("GPUs held twice", len(findings.held_twice), True),
            ("requests sent", self.promise.sent, False),
            ("requests succeeded", self.promise.succeeded, False),
            ("requests failed, excused", self.promise.excused, False),
            ("requests failed while promised", len(self.promise.broken), True),
            ("parts that lost their office, and ended", len(self.fell) - len(self.crashed), False),
            ("parts that ended by themselves otherwise", len(self.crashed), True),
            ("things that have not recovered", len(findings.not_recovered), True),
        ]

    def details(self) -> list[str]:
        """Return what lies behind the counts, shortened."""
        findings, events = self.findings, self.findings.events
        named = {
            "internal error": self.surprises,
            "refused": self.refused,
            "not in effect": findings.not_in_effect,
            "token": findings.wrong_tokens,
            "missing": events.missing,
            "altered": events.altered,
            "never committed": events.never_committed,
            "out of order": events.out_of_order,
            "not consumed": findings.not_consumed,
            "held twice": findings.held_twice,
            "promise broken": self.promise.broken,
            "ended by itself": self.crashed,
            "not recovered": findings.not_recovered,
        }
        return [f"{what}: {one}" for what, all_ in named.items() for one in all_[:10]]

    @property
    def crashed(self) -> Sequence[str]:
        """How parts ended that nobody had ended; one that leads no more is right to end."""
        return [how for how in self.fell if "NotLeaderError" not in how]

    def table(self) -> str:
        """Return the counts, and what lies behind those that should be zero."""
        lines = []
        for what, count, must_be_zero in self.rows():
            judgement = "" if not must_be_zero else "   MUST BE 0" if count else "   ok"
            lines.append(f"{what:<52}{count:>8}{judgement}")
        return "\n".join(["", *lines, "", *self.details()])

    @property
    def good(self) -> bool:
        """Whether all is zero that must be."""
        return not any(count for _, count, must_be_zero in self.rows() if must_be_zero)


class Chronicle:
    """Says what happens, with the seconds since it began."""

    def __init__(self) -> None:
        self._begun = time.monotonic()

    def __call__(self, text: str) -> None:
        say(f"{time.monotonic() - self._begun:7.1f} s  {text}")


async def run(options: Options, directory: Path) -> Result:
    """Run in an empty directory; leave no process behind, when ended by SIGTERM neither."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    tell = Chronicle()
    world = World(directory, options.shape)
    try:
        await world.start()
        tell("all parts are up")
        async with AsyncExitStack() as stack:
            return await _run(options, world, tell, stack)
    finally:
        await world.close()


async def _run(options: Options, world: World, tell: Chronicle, stack: AsyncExitStack) -> Result:
    chance = random.Random(options.seed)
    admin = {"authorization": f"Bearer {world.token}"}
    session = await stack.enter_async_context(aiohttp.ClientSession(headers=admin))
    plain = await stack.enter_async_context(aiohttp.ClientSession())
    await stack.enter_async_context(_background(world.keep()))

    bus = await Bus.connect(world.nats_url, name="chaos")
    stack.push_async_callback(bus.close)
    subscriber = Subscriber()
    await stack.enter_async_context(_background(subscriber.run(bus)))

    paper = [
        ScriptedAgent(world.scheduler_address, region=PAPER, token=world.agent_token, report_s=0.2)
        for _ in range(2)
    ]
    for agent in paper:
        agent.start()
        stack.push_async_callback(agent.stop)

    api = Api(session, world.gateways)
    steady, shaken = await asyncio.gather(_deploy(api, "steady"), _deploy(api, "shaken"))

    promise = Promise()
    askers = [
        Asker(session, promise, name, url, one["endpoint_id"], one["routing_key"], 0.1, tell)
        for name, url in world.gateways.items()
        for one in (steady, shaken)
    ]
    async with asyncio.timeout(_READY_S):
        await asyncio.gather(*(_until_it_answers(one) for one in askers))
    tell("two endpoints run")
    owners = [
        Owner(api, f"paper {n}", _ON_PAPER, (0.1, 1.5), random.Random(chance.random()))
        for n in range(options.on_paper)
    ]
    owners += [
        Owner(api, f"real {n}", _REAL, (4, 12), random.Random(chance.random()))
        for n in range(options.for_real)
    ]
    tokens = Tokens(api, (0.5, 2), random.Random(chance.random()))

    over = asyncio.Event()
    work = [*(one.run(over) for one in owners), tokens.run(over), *(a.run(over) for a in askers)]
    clients = [await stack.enter_async_context(_background(one)) for one in work]

    async def ready_replica() -> str:
        there = await api.get(f"{ENDPOINTS}/{shaken['endpoint_id']}")
        return next((r["replica_id"] for r in there["replicas"] if r["status"] == "ready"), "")

    striker = Striker(world, promise, shaken["endpoint_id"], ready_replica, tell)
    await striker.run(schedule(options.seed, options.seconds, victims(world)))
    tell("all faults are over")
    over.set()
    async with asyncio.timeout(_LAST_ANSWERS_S):
        await asyncio.gather(*clients)
    tell("all commands are answered")

    others = {steady["endpoint_id"], shaken["endpoint_id"]}
    audit = Audit(world, api, plain, owners, others, tokens, askers, paper, subscriber)
    findings = await audit.settle(tell)
    tell("NOT settled" if findings.unsettled else "settled")
    return Result(
        acknowledged=api.acknowledged,
        promise=promise,
        findings=findings,
        surprises=api.surprises,
        refused=[one for owner in owners for one in owner.refused],
        fell=world.fell,
        dropped=subscriber.dropped,
    )


async def _deploy(api: Api, name: str) -> Json:
    created = await api.command("POST", ENDPOINTS, name, {"name": name, **_REAL})
    path = f"{ENDPOINTS}/{created['endpoint_id']}"
    async with asyncio.timeout(_READY_S):
        while (there := await api.get(path))["status"] != "running":
            if there["status"] == "failed":
                raise RuntimeError(f"{name} does not run: {there['status_reason']}")
            await asyncio.sleep(0.2)
    return there


async def _until_it_answers(asker: Asker) -> None:
    """Wait for the gateway's copy of the route, which is a moment behind."""
    while await asker.ask(stream=False):
        await asyncio.sleep(0.1)


@asynccontextmanager
async def _background(work: Coroutine[object, object, None]) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(work)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
