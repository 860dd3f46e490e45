"""A whole run: start everything, load it, strike, wait until it has settled, count."""

import asyncio
import math
import random
import signal
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

import aiohttp
from tests.chaos.audit import Audit, Subscriber
from tests.chaos.clients import Api, Asker, Tokens, Watcher
from tests.chaos.hosts import Operator
from tests.chaos.owners import Desk, Endpoint, Owner, Reviser
from tests.chaos.promise import Promise
from tests.chaos.schedule import BETWEEN, schedule
from tests.chaos.strike import Striker, victims
from tests.chaos.table import Result
from tests.chaos.world import HARDWARE, Shape, World
from tests.service.scheduler.scripted_agent import ScriptedAgent

from engineshed.bus import Bus

PAPER: Final = "paper"  # a region whose agents only say that they run replicas
LOCAL: Final = "local"

_READY_S: Final = 120.0
_LAST_ANSWERS_S: Final = 180.0  # for commands that are still unanswered when the faults are over
_GPUS_SEEN_EVERY_S: Final = 2.0

say: Final = partial(print, flush=True)

_MODEL: Final = {
    "model_name": "engineshed/sample",
    "serving": {"precision": "float32", "max_context": 1024},
}
_REAL: Final = {**_MODEL, "region": LOCAL, "gpu_type": HARDWARE}
_BY_LOAD: Final = {"min_replicas": 1, "max_replicas": 2}
_IDLE: Final = {"min_replicas": 0, "max_replicas": 1, "idle_after": 4, "wake_timeout": 40}
_ON_PAPER: Final = {**_MODEL, "region": PAPER, "gpu_type": "cpu"}


@dataclass(frozen=True, slots=True)
class Options:
    """What a run is."""

    seconds: float
    seed: int
    shape: Shape
    between: float = BETWEEN  # seconds from one fault to the next, on average
    on_paper: int = 6  # owners of endpoints whose replicas are only said to run
    for_real: int = 1  # owners of endpoints whose replicas run
    asked: Sequence[str] = ("steady", "shaken", "revised")  # all the time; the last is changed, too
    by_load: bool = (
        True  # waves of requests scale "shaken", and an idle one is woken again and again
    )


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
            return await _Run(options, world, tell, stack).run()
    finally:
        await world.close()


@dataclass(slots=True)
class _Run:
    options: Options
    world: World
    tell: Chronicle
    stack: AsyncExitStack
    promise: Promise = field(default_factory=Promise)
    shared_gpus: list[str] = field(default_factory=list)
    ready: dict[str, frozenset[str]] = field(default_factory=dict)  # replicas of who is asked

    async def run(self) -> Result:
        world, tell, options = self.world, self.tell, self.options
        admin = {"authorization": f"Bearer {world.token}"}
        session = await self.stack.enter_async_context(aiohttp.ClientSession(headers=admin))
        plain = await self.stack.enter_async_context(aiohttp.ClientSession())
        await self._beside(world.keep())
        await self._beside(self._look_at_gpus())
        subscriber = await self._subscriber()
        paper = self._paper()

        api = Api(session, world.gateways)
        asked = await asyncio.gather(*(self._deploy(api, name) for name in options.asked))
        self.ready |= {one.endpoint_id: frozenset() for one in asked}
        await self._beside(Watcher(api, self.ready).run())
        askers = self._askers(session, api, asked, pause_s=0.1)
        async with asyncio.timeout(_READY_S):
            await asyncio.gather(*(_until_it_answers(one) for one in askers))
        tell(f"{len(asked)} endpoints run")
        sleepers, waves = [], []
        if options.by_load:
            sleepers = [await Desk(api, "sleeper").create({**_REAL, "scaling": _IDLE})]
            waves = self._waves(session, api, asked[1], sleepers[0])

        chance = random.Random(options.seed)
        owners, tokens, others = self._callers(api, asked[-1], chance)
        over = asyncio.Event()
        callers = [*owners, tokens, *others, *askers, *waves]
        clients = [await self._beside(one.run(over)) for one in callers]

        targets = [one.endpoint_id for one in asked[1:]]
        striker = Striker(world, self.promise, api, targets, self.ready, tell)
        faults = schedule(options.seed, options.seconds, victims(world), options.between)
        await striker.run(faults)
        tell("all faults are over")
        over.set()
        async with asyncio.timeout(_LAST_ANSWERS_S):
            await asyncio.gather(*clients)
        tell("all commands are answered")

        audit = Audit(
            world,
            api,
            plain,
            [*asked, *sleepers, *(one for owner in owners for one in owner.endpoints)],
            tokens,
            askers,
            paper,
            subscriber,
            striker.disturbed,
            self.shared_gpus,
        )
        findings = await audit.settle(tell)
        tell("NOT settled" if findings.unsettled else "settled")
        return Result(
            seed=options.seed,
            seconds=options.seconds,
            struck=striker.struck,
            skipped=[]
            if options.shape.own_hosts
            else ["full disks and pulled cables: this takes root, mount, ip and iptables"],
            operations=api.operations,
            promise=self.promise,
            findings=findings,
            surprises=api.surprises,
            refused=[one for owner in owners for one in owner.refused],
            fell=world.fell,
            dropped=subscriber.dropped,
        )

    def _callers(
        self, api: Api, revised: Endpoint, chance: random.Random
    ) -> tuple[list[Owner], Tokens, list[Reviser | Operator]]:
        """Return all who give commands, each with dice of their own."""

        def dice() -> random.Random:
            return random.Random(chance.random())

        owners = [
            Owner(Desk(api, f"paper {n}"), _ON_PAPER, (0.1, 1.5), dice(), 0, 4, (1, 2))
            for n in range(self.options.on_paper)
        ]
        owners += [
            Owner(Desk(api, f"real {n}"), _REAL, (4, 12), dice(), 1, 1, (1,))
            for n in range(self.options.for_real)
        ]
        tokens = Tokens(api, (0.5, 2), dice())
        others: list[Reviser | Operator] = [
            Reviser(Desk(api, "reviser"), self.promise, revised, (1, 4), dice()),
            Operator(api, PAPER, (1, 4), dice()),
            Operator(api, LOCAL, (4, 10), dice()),
        ]
        return owners, tokens, others

    async def _subscriber(self) -> Subscriber:
        bus = await Bus.connect(self.world.nats_url, name="chaos")
        self.stack.push_async_callback(bus.close)
        subscriber = Subscriber()
        await self._beside(subscriber.run(bus))
        return subscriber

    def _paper(self) -> list[ScriptedAgent]:
        address, token = self.world.scheduler_address, self.world.agent_token
        agents = [
            ScriptedAgent(address, region=PAPER, gpus=4, token=token, report_s=0.2)
            for _ in range(2)
        ]
        for agent in agents:
            agent.start()
            self.stack.push_async_callback(agent.stop)
        return agents

    def _askers(
        self,
        session: aiohttp.ClientSession,
        api: Api,
        endpoints: Sequence[Endpoint],
        *,
        pause_s: float,
        burst_s: float = math.inf,
        calm_s: float = 0.0,
    ) -> list[Asker]:
        """Return one for every way to every endpoint."""
        return [
            Asker(
                session,
                self.promise,
                name,
                url,
                one.endpoint_id,
                one.told["routing_key"],
                pause_s,
                api,
                self.tell,
                burst_s,
                calm_s,
            )
            for name, url in self.world.gateways.items()
            for one in endpoints
        ]

    def _waves(
        self, session: aiohttp.ClientSession, api: Api, shaken: Endpoint, sleeper: Endpoint
    ) -> list[Asker]:
        """Return who asks now and then; the sleeper may wake too late for a request."""
        self.promise.excuse(endpoint=sleeper.endpoint_id, refusals_only=True)
        self.ready[sleeper.endpoint_id] = frozenset()
        waves = self._askers(session, api, [shaken, shaken], pause_s=0, burst_s=8, calm_s=20)
        return waves + self._askers(session, api, [sleeper], pause_s=0.5, burst_s=3, calm_s=15)

    async def _deploy(self, api: Api, name: str) -> Endpoint:
        spec = {**_REAL, "scaling": _BY_LOAD} if name == "shaken" else _REAL
        endpoint = await Desk(api, name).create(spec)
        async with asyncio.timeout(_READY_S):
            while (there := await api.get(endpoint.path))["status"] != "running":
                if there["status"] == "failed":
                    raise RuntimeError(f"{name} does not run: {there['status_reason']}")
                await asyncio.sleep(0.2)
        return endpoint

    async def _look_at_gpus(self) -> None:
        """Note when two replicas run on one GPU, for ever."""
        while True:
            await asyncio.sleep(_GPUS_SEEN_EVERY_S)
            self.shared_gpus += await asyncio.to_thread(self.world.shared_gpus)

    async def _beside(self, work: Coroutine[object, object, None]) -> asyncio.Task[None]:
        return await self.stack.enter_async_context(_background(work))


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
