"""After the faults: waiting until all is as it was promised, and saying what is not."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final
from urllib.parse import unquote

import aiohttp
import nats
from tests.chaos.accounts import Comparison, Published, compare, gpus_held_twice
from tests.chaos.clients import ENDPOINTS, Api, Asker, Endpoint, Json, Owner, Tokens
from tests.chaos.world import World
from tests.service.scheduler.scripted_agent import ScriptedAgent

from engineshed.api.catalog.v1 import events_pb2 as catalog_events
from engineshed.api.events.v1.event_service_pb2 import Event, ReadEventsRequest
from engineshed.api.events.v1.event_service_pb2_grpc import EventServiceStub
from engineshed.bus import Bus, ReceivedEvent, consume
from engineshed.rpc import LEADER, open_channel

__all__ = ["Audit", "Findings", "Subscriber", "catalog_events"]  # the catalog's types are in use

SETTLED_WITHIN_S: Final = 180.0

_READ_S: Final = 30.0
_ENDED: Final = ("stopped", "failed")


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
    not_in_effect: Sequence[str] = ()  # of what was acknowledged
    wrong_tokens: Sequence[str] = ()
    not_recovered: Sequence[str] = ()

    @property
    def unsettled(self) -> Sequence[str]:
        """What time may still mend."""
        return [
            *self.not_recovered,
            *self.not_in_effect,
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
    owners: Sequence[Owner]
    others: set[str]  # endpoints that are there beside the owners'
    tokens: Tokens
    askers: Sequence[Asker]
    paper: Sequence[ScriptedAgent]
    subscriber: Subscriber

    async def settle(self, tell: Callable[[str], None]) -> Findings:
        """Return once all is well, or what is not after a long time."""
        deadline = time.monotonic() + SETTLED_WITHIN_S
        told = ""
        while True:
            findings = await self.look()
            first = next(iter(findings.unsettled), "")
            if not first or time.monotonic() > deadline:
                return findings
            if first != told:
                tell(f"waiting: {first}, and {len(findings.unsettled) - 1} more")
                told = first
            await asyncio.sleep(1)

    async def look(self) -> Findings:
        """Return what is not as it should be now."""
        found = Findings()
        found.not_recovered = [one async for one in self._not_recovered()]
        found.not_in_effect = [one async for one in self._not_in_effect()]
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
        ]
        return found

    async def _not_recovered(self) -> AsyncIterator[str]:
        for node in (await self.api.get("/v0/nodes"))["data"]:
            if node["status"] != "joined":
                yield f"node {node['node_id']} is {node['status']}"
        for asker in self.askers:
            if problem := await asker.ask(stream=False):
                yield f"{asker.gateway} does not serve {asker.model}: {problem}"
        for owner in self.owners:
            for mine in owner.endpoints:
                there = await self._endpoint(mine)
                if there["status"] != _wanted_status(mine, there):
                    yield f"{mine.endpoint_id} is {there['status']}: {there['status_reason']}"
                elif mine.deleted and (left := _living(there)):
                    yield f"{mine.endpoint_id} is gone, but {left} are not"
        for replica_id in self.world.running_replicas() - await self._living_replicas():
            yield f"{replica_id} runs, and should not"

    async def _not_in_effect(self) -> AsyncIterator[str]:
        for owner in self.owners:
            for mine in owner.endpoints:
                there = await self._endpoint(mine)
                if mine.deleted and there["status"] != "terminated":
                    yield f"{mine.endpoint_id} was deleted and is {there['status']}"
                if not mine.deleted and there["enabled"] != mine.enabled:
                    yield f"{mine.endpoint_id}: enabled is {there['enabled']}"
                if there["description"] != mine.description:
                    yield f"{mine.endpoint_id}: described as {there['description']!r}"
        mine_all = {one.endpoint_id for owner in self.owners for one in owner.endpoints}
        for endpoint_id in await self._all_endpoints() ^ (mine_all | self.others):
            yield f"{endpoint_id} is there or not against its owner's will"

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

    async def _endpoint(self, mine: Endpoint) -> Json:
        return await self.api.get(f"{ENDPOINTS}/{mine.endpoint_id}")

    async def _all_endpoints(self) -> set[str]:
        return {one["endpoint_id"] for one in await self._list_endpoints()}

    async def _living_replicas(self) -> set[str]:
        return {one for endpoint in await self._list_endpoints() for one in _living(endpoint)}

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


def _wanted_status(mine: Endpoint, there: Json) -> str:
    if mine.deleted:
        return "terminated"
    return "running" if mine.enabled else "stopped"


def _living(endpoint: Mapping[str, object]) -> list[str]:
    replicas = endpoint["replicas"]
    assert isinstance(replicas, list)
    return [one["replica_id"] for one in replicas if one["status"] not in _ENDED]
