"""After the faults: waiting until all is as it was promised, and saying what is not."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final
from urllib.parse import unquote

import aiohttp
import nats
from tests.chaos.accounts import Comparison, Published, compare, gpus_held_twice
from tests.chaos.bills import Interval, beyond, billed, wrong_bills
from tests.chaos.clients import ENDPOINTS, NODES, Api, Asker, Json, Tokens
from tests.chaos.owners import Endpoint, is_done
from tests.chaos.truth import fleet, unsettled
from tests.chaos.world import World
from tests.service.scheduler.scripted_agent import ScriptedAgent

from engineshed.api.catalog.v1 import events_pb2 as catalog_events
from engineshed.api.events.v1.event_service_pb2 import Event, ReadEventsRequest
from engineshed.api.events.v1.event_service_pb2_grpc import EventServiceStub
from engineshed.api.scheduler.v1.scheduling_service_pb2 import ReplayDecisionsRequest
from engineshed.api.scheduler.v1.scheduling_service_pb2_grpc import SchedulingServiceStub
from engineshed.bus import Bus, ReceivedEvent, consume
from engineshed.rpc import LEADER, open_channel

__all__ = ["Audit", "Findings", "Subscriber", "catalog_events"]  # the catalog's types are in use

SETTLED_WITHIN_S: Final = 180.0

_READ_S: Final = 30.0
_REPLAY_S: Final = 120.0
_ENDED: Final = ("stopped", "failed")
_ACTUAL: Final = ("description", "enabled", "scaling", "serving", "gpu_count", "deployment")


class Subscriber:
    """Somebody with a durable consumer, who drops repeated events by their id."""

    def __init__(self) -> None:
        self.seen: set[str] = set()
        self.dropped = 0

    async def run(self, bus: Bus) -> None:
        """Consume for ever."""
        await consume(bus, "chaos", ["engineshed.events.v1.>"], self._handle)

    async def _handle(self, event: ReceivedEvent) -> None:
        if event.event_id in self.seen:
            self.dropped += 1
        self.seen.add(event.event_id)


@dataclass(slots=True)
class Findings:
    """What is not as it should be."""

    events: Comparison = field(default_factory=Comparison)
    not_consumed: Sequence[str] = ()
    held_twice: Sequence[str] = ()
    gpus_differ: Sequence[str] = ()  # between database, endpoints and hosts
    not_in_effect: Sequence[str] = ()  # of what was acknowledged
    endpoints_unsettled: Sequence[str] = ()
    untrue_reasons: Sequence[str] = ()
    waiting: int = 0  # endpoints that miss replicas, and say truly why
    wrong_tokens: Sequence[str] = ()
    not_recovered: Sequence[str] = ()
    wrong_bills: Sequence[str] = ()
    bills: int = 0
    happened: Mapping[str, int] = field(default_factory=dict)  # events by kind, of the scheduler
    replayed: int = 0  # plans, made again from what they were made from
    replayed_otherwise: Sequence[str] = ()

    @property
    def unsettled(self) -> Sequence[str]:
        """What time may still mend."""
        return [
            *self.not_recovered,
            *self.endpoints_unsettled,
            *self.untrue_reasons,
            *self.not_in_effect,
            *self.gpus_differ,
            *self.wrong_tokens,
            *(f"{event_id} is not published" for event_id in self.events.missing),
            *(f"{event_id} is not consumed" for event_id in self.not_consumed),
        ]


@dataclass(slots=True)
class Audit:
    """Looks at a world from outside, as callers and subscribers see it."""

    world: World
    api: Api
    session: aiohttp.ClientSession  # without a token
    endpoints: Sequence[Endpoint]  # all that were ever created
    tokens: Tokens
    askers: Sequence[Asker]
    paper: Sequence[ScriptedAgent]
    subscriber: Subscriber
    disturbed: Sequence[Interval]
    shared_gpus: Sequence[str]  # seen all along

    async def settle(self, tell: Callable[[str], None]) -> Findings:
        """Return once all is well, or what is not after a long time."""
        deadline = time.monotonic() + SETTLED_WITHIN_S
        told = ""
        while True:
            findings = await self.look()
            first = next(iter(findings.unsettled), "")
            if not first or time.monotonic() > deadline:
                await self._replay(findings)
                return findings
            if first != told:
                tell(f"waiting: {first}, and {len(findings.unsettled) - 1} more")
                told = first
            await asyncio.sleep(1)

    async def look(self) -> Findings:
        """Return what is not as it should be now."""
        found = Findings()
        found.not_recovered = [one async for one in self._not_recovered()]
        shown = {one["endpoint_id"]: one for one in await self._list_endpoints()}
        hosts = (await self.api.get(NODES))["data"]
        found.not_in_effect = list(self._not_in_effect(shown))
        found.endpoints_unsettled = [
            f"{one.endpoint_id} {how}"
            for one in self.endpoints
            if (there := shown.get(one.endpoint_id))
            and (how := unsettled(there, deleted=one.deleted))
        ]
        await self._ask_why(found, [*shown.values()], hosts)
        found.gpus_differ = list(self._gpus_differ([*shown.values()], hosts))
        found.wrong_tokens = [one async for one in self._wrong_tokens()]
        published = await self._published()  # first: what was published has been committed
        committed = {
            "catalog": await self._committed(self.world.catalog_address, ""),
            "scheduler": await self._committed(self.world.scheduler_address, LEADER),
        }
        found.events = compare(committed, published)
        everything = {event.event_id for events in committed.values() for event in events}
        found.not_consumed = sorted(everything - self.subscriber.seen)
        found.held_twice = [
            *gpus_held_twice(committed["scheduler"]),
            *(fault for agent in self.paper for fault in agent.faults),
            *self.shared_gpus,
        ]
        kinds = Counter(
            event.data.TypeName().rpartition(".")[2] for event in committed["scheduler"]
        )
        found.happened = kinds
        bills = billed(committed["scheduler"])
        found.bills = len(bills)
        found.wrong_bills = [
            *wrong_bills(committed["scheduler"]),
            *beyond(bills, self.world.seen_serving(), self.disturbed),
        ]
        return found

    async def _not_recovered(self) -> AsyncIterator[str]:
        for node in (await self.api.get(NODES))["data"]:
            if node["status"] != "joined":
                yield f"node {node['node_id']} is {node['status']}"
        for asker in self.askers:
            if problem := await asker.ask(stream=False):
                yield f"{asker.model} is not served: {problem.text}"

    def _not_in_effect(self, shown: dict[str, Json]) -> Iterator[str]:
        for one in self.endpoints:
            there = shown.get(one.endpoint_id)
            if there is None:
                yield f"{one.endpoint_id} is not there"
            elif not one.deleted:
                for name in _ACTUAL:
                    if there[name] != one.told[name]:
                        yield f"{one.endpoint_id}: {name} is {there[name]}, not {one.told[name]}"
        for endpoint_id in shown.keys() - {one.endpoint_id for one in self.endpoints}:
            yield f"{endpoint_id} is there, and nobody was told"

    async def _ask_why(self, found: Findings, shown: Sequence[Json], hosts: Sequence[Json]) -> None:
        """Look into what endpoints wait for."""
        waiting = [
            (one, await self.api.get(f"{ENDPOINTS}/{one['endpoint_id']}/explanation"))
            for one in shown
            if one["enabled"] and one["status"] in ("queued", "running") and not is_done(one)
        ]
        there, untrue = fleet(hosts, waiting), []
        for endpoint, told in waiting:
            wait = told["wait"]
            why_not = there.why_not_true(endpoint, wait) if wait else "it waits for nothing"
            if why_not:
                reason = wait["reason"] if wait else endpoint["status_reason"]
                untrue.append(f"{endpoint['endpoint_id']} says {reason!r}, but: {why_not}")
        found.untrue_reasons, found.waiting = untrue, len(waiting) - len(untrue)

    def _gpus_differ(self, shown: Sequence[Json], hosts: Sequence[Json]) -> Iterator[str]:
        """Compare who has which GPU: the database, the endpoints, the hosts, and what runs."""
        replicas = [one for endpoint in shown for one in endpoint["replicas"]]
        placed = {
            (one["node_id"], gpu, one["replica_id"])
            for one in replicas
            if one["status"] not in _ENDED
            for gpu in one["gpus"]
        }
        shown_held = {
            (host["node_id"], gpu["index"], gpu["replica_id"])
            for host in hosts
            for gpu in host["gpus"]
            if gpu["replica_id"]
        }
        for name, held in (("database", self.world.held_gpus()), ("list of hosts", shown_held)):
            for node_id, gpu, replica_id in held ^ placed:
                yield f"{replica_id} has GPU {gpu} of {node_id} or not, by the {name}"
        of_paper = {agent.node_id for agent in self.paper}
        gpus: dict[str, set[int]] = {}
        for node_id, gpu, replica_id in placed:
            if node_id not in of_paper:
                gpus.setdefault(replica_id, set()).add(gpu)
        running = {one: set(r["gpus"]) for one, r in self.world.running_replicas().items()}
        for replica_id in gpus.keys() | running.keys():
            if gpus.get(replica_id) != running.get(replica_id):
                yield (
                    f"{replica_id} runs on {running.get(replica_id)}, "
                    f"and should on {gpus.get(replica_id)}"
                )

    async def _wrong_tokens(self) -> AsyncIterator[str]:
        for wanted, tokens in (
            (HTTPStatus.OK, self.tokens.good),
            (HTTPStatus.UNAUTHORIZED, self.tokens.revoked),
        ):
            for gateway, url in self.world.gateways.items():
                for token_id, secret in tokens.items():
                    headers = {"authorization": f"Bearer {secret}"}
                    async with self.session.get(f"{url}/v1/models", headers=headers) as answer:
                        if answer.status != wanted:
                            yield f"{token_id} at {gateway}: {answer.status}, not {wanted}"

    async def _list_endpoints(self) -> list[Json]:
        path = f"{ENDPOINTS}?show_terminated=true&page_size=1000"
        page = await self.api.get(path)
        found: list[Json] = page["data"]
        while token := page["next_page_token"]:
            page = await self.api.get(f"{path}&page_token={token}")
            found += page["data"]
        return found

    async def _committed(self, address: str, healthy: str) -> list[Event]:
        channel = open_channel(address, self.world.token, "chaos", healthy=healthy)
        async with channel:
            replies = EventServiceStub(channel).ReadEvents(
                ReadEventsRequest(), timeout=_READ_S, wait_for_ready=True
            )
            return [reply.event async for reply in replies]

    async def _replay(self, found: Findings) -> None:
        """Let the scheduler decide everything again."""
        address = self.world.scheduler_address
        channel = open_channel(address, self.world.token, "chaos", healthy=LEADER)
        async with channel:
            replies = SchedulingServiceStub(channel).ReplayDecisions(
                ReplayDecisionsRequest(), timeout=_REPLAY_S, wait_for_ready=True
            )
            async for reply in replies:
                found.replayed = reply.turns
                found.replayed_otherwise = [
                    f"at {one.position}: {list(one.recorded)}, now {list(one.replayed)}"
                    for one in reply.differences
                ]
                if reply.differing_turns > len(reply.differences) > 0:
                    found.replayed_otherwise.append(f"{reply.differing_turns} in all")

    async def _published(self) -> list[Published]:
        """Read the stream as any subscriber may."""
        client = await nats.connect((self.world.layout.root / "nats.url").read_text())
        found: list[Published] = []
        try:
            js = client.jetstream()
            subscription = await js.subscribe("engineshed.events.v1.>", ordered_consumer=True)
            more = True
            while more:
                message = await subscription.next_msg(timeout=_READ_S)
                more = message.metadata.num_pending > 0
                attributes = {
                    name.removeprefix("ce-"): unquote(value)
                    for name, value in (message.headers or {}).items()
                    if name.startswith("ce-")
                }
                found.append(Published(message.subject, attributes, message.data))
        finally:
            with suppress(nats.errors.Error):
                await client.close()
        return found
