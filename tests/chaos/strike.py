"""Carrying faults out: each one begins, lasts, and is undone."""

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import Final

import psutil
from tests.chaos.clients import ENDPOINTS, Api
from tests.chaos.promise import Excuse, Promise
from tests.chaos.schedule import Fault, Kind, Victim
from tests.chaos.world import World

_CONTROL_PLANE: Final = ("nats", "catalog", "scheduler", "database")
_BLACKOUT: Final = "control plane"
_HOST: Final = "host of "
_DISK: Final = "disk of "
_NETWORK: Final = "network of "
_HEARS_AGAIN_S: Final = 10.0  # a gateway, after the broker is back or the connection
_SPLIT_AFTER: Final = 700  # bytes: in the head or in the payload of some message

# Three crashes of a replica in a row, within ten minutes, fail its endpoint: never so often.
_CRASHES: Final = 2
_CRASHES_WITHIN_S: Final = 610.0


def victims(world: World) -> list[Victim]:
    """Return all that can be struck, and how."""
    found = [Victim(name, _kinds_of(name)) for name in world.parts]
    found += [Victim(name, (Kind.CUT, Kind.SPLIT, Kind.HANG)) for name in world.links]
    # There are many links: what strikes hosts and replicas has more cards than it would have else.
    plane = frozenset(name for name in world.parts if name.startswith(_CONTROL_PLANE))
    found.append(Victim(_BLACKOUT, (Kind.BLACKOUT,), plane))
    for name in world.agents:
        found.append(Victim(f"{_HOST}{name}", (Kind.BLACKOUT,) * 2, frozenset({name})))
        if world.has_own_disk(name):
            found.append(Victim(f"{_DISK}{name}", (Kind.FULL,) * 2))
        if name in world.networks:
            found.append(Victim(f"{_NETWORK}{name}", (Kind.PULL,) * 2))
    both = frozenset({"replicas"})
    found += [
        Victim(name, (Kind.KILL, Kind.PAUSE) * 3, both, rest=8.0)
        for name in ("a front", "a triton")
    ]
    return found


def _kinds_of(name: str) -> Sequence[Kind]:
    more = (Kind.WIPE,) if name == "nats" else ()
    return ((Kind.KILL, Kind.PAUSE) * 2) + more


class Striker:
    """Strikes at the parts of a world."""

    def __init__(
        self,
        world: World,
        promise: Promise,
        api: Api,
        targets: Sequence[str],
        ready: Mapping[str, Collection[str]],
        tell: Callable[[str], None],
    ) -> None:
        """Prepare to strike; single replicas only of the endpoints in `targets`.

        `ready` are the ready replicas of all endpoints that are asked.
        """
        self._world = world
        self._promise = promise
        self._api = api
        self._targets = targets
        self._ready = ready
        self._tell = tell
        self._crashes: defaultdict[str, list[float]] = defaultdict(list)
        self.struck: Counter[str] = Counter()  # by what happened
        self.disturbed: list[tuple[datetime, datetime]] = []  # when something was struck

    async def run(self, faults: Sequence[Fault]) -> None:
        """Carry all of them out at their time; return when the last one is over."""
        begun = time.monotonic()
        async with asyncio.TaskGroup() as running:
            for fault in faults:
                await asyncio.sleep(begun + fault.at - time.monotonic())
                lasts = f" for {fault.lasts:g} s" if fault.lasts else ""
                self._tell(f"{fault.victim}: {fault.kind}{lasts}")
                self.struck[_named(fault)] += 1
                running.create_task(self._note(fault))

    async def _note(self, fault: Fault) -> None:
        begun = datetime.now(UTC)
        deaf = self._cut_off(fault)
        await self._strike(fault)
        self.disturbed.append((begun, datetime.now(UTC)))
        for excuse in deaf:
            excuse.over_at = time.monotonic() + _HEARS_AGAIN_S

    def _cut_off(self, fault: Fault) -> list[Excuse]:
        """Excuse gateways that do not hear from the broker, as far as they have to know."""
        everybody = fault.victim in ("nats", _BLACKOUT)
        return [
            self._promise.excuse(gateway=one, endpoint=endpoint, refusals_only=True, known=known)
            for one in self._world.gateways
            if everybody or fault.victim == f"{one} to nats"
            for endpoint, known in self._ready.items()
            if known
        ]

    async def _strike(self, fault: Fault) -> None:
        world = self._world
        if fault.victim in world.links:
            await self._strike_link(fault)
        elif fault.victim == _BLACKOUT:
            await self._kill(fault, [one for one in world.parts if one.startswith(_CONTROL_PLANE)])
        elif fault.victim.startswith(_HOST):
            await self._strike_host(fault)
        elif fault.victim.startswith(_DISK):
            await self._fill_disk(fault)
        elif fault.victim.startswith(_NETWORK):
            await self._pull_cable(fault)
        elif fault.victim.startswith("gateway"):
            with self._promise.excusing(gateway=fault.victim):
                await self._strike_part(fault)
        elif fault.victim in world.parts:
            await self._strike_part(fault)
        else:
            await self._strike_replica(fault)

    async def _strike_part(self, fault: Fault) -> None:
        if fault.kind is Kind.PAUSE:
            part = self._world.parts[fault.victim]
            part.pause()
            await asyncio.sleep(fault.lasts)
            part.go_on()
        else:
            await self._kill(fault, [fault.victim])

    async def _kill(self, fault: Fault, names: Sequence[str]) -> None:
        world = self._world
        world.down.update(names)
        for name in names:
            world.parts[name].kill()
        if fault.kind is Kind.WIPE:
            world.wipe_broker()
        await asyncio.sleep(fault.lasts)
        for name in names:
            await world.parts[name].start()
        world.down.difference_update(names)

    async def _strike_link(self, fault: Fault) -> None:
        link = self._world.links[fault.victim]
        match fault.kind:
            case Kind.CUT:
                link.cut()
            case Kind.SPLIT:
                link.cut_after(_SPLIT_AFTER)
            case _:
                link.hang()
                await asyncio.sleep(fault.lasts)
                link.go_on()

    async def _strike_host(self, fault: Fault) -> None:
        """Kill an agent and all that it has started, as a power cut does."""
        world, name = self._world, fault.victim.removeprefix(_HOST)
        world.down.add(name)
        world.parts[name].kill()  # first: it would see the others die, and say so
        with ExitStack() as excuses:
            for endpoint in world.endpoints_on(name):
                excuses.enter_context(self._promise.excusing(endpoint=endpoint))
            world.kill_replicas(name)
        await asyncio.sleep(fault.lasts)
        await world.parts[name].start()
        world.down.discard(name)

    async def _fill_disk(self, fault: Fault) -> None:
        name = fault.victim.removeprefix(_DISK)
        self._world.fill_disk(name)
        await asyncio.sleep(fault.lasts)
        self._world.free_disk(name)

    async def _pull_cable(self, fault: Fault) -> None:
        """Let nobody reach a host, nor it anybody."""
        world, name = self._world, fault.victim.removeprefix(_NETWORK)
        with ExitStack() as excuses:
            for endpoint in world.endpoints_on(name):
                excuses.enter_context(self._promise.excusing(endpoint=endpoint))
            world.networks[name].pull()
            await asyncio.sleep(fault.lasts)
            world.networks[name].plug_in()

    async def _strike_replica(self, fault: Fault) -> None:
        what, crashes = fault.victim.removeprefix("a "), fault.kind is Kind.KILL
        endpoint, replica_id = await self._some_replica(crashes=crashes)
        process = self._world.replica(replica_id, what) if replica_id else None
        if process is None:
            self._tell(f"no {what} to strike now")
            self.struck[_named(fault)] -= 1
            return
        self._tell(f"it is the {what} of {replica_id} of {endpoint}")
        with self._promise.excusing(endpoint=endpoint):
            if crashes:
                self._crashes[endpoint].append(time.monotonic())
                process.kill()
            else:
                await _pause(process, fault.lasts)

    async def _some_replica(self, *, crashes: bool) -> tuple[str, str]:
        """Return an endpoint that was struck least, and a ready replica of it; "" without any."""
        since = time.monotonic() - _CRASHES_WITHIN_S
        recent = {one: sum(at > since for at in self._crashes[one]) for one in self._targets}
        for endpoint in sorted(self._targets, key=lambda one: recent[one]):
            if crashes and recent[endpoint] >= _CRASHES:
                continue
            there = await self._api.get(f"{ENDPOINTS}/{endpoint}")
            for replica in there["replicas"]:
                if replica["status"] == "ready":
                    return endpoint, replica["replica_id"]
        return "", ""


def _named(fault: Fault) -> str:
    """Return what happens to what, without its number."""
    victim = "".join(one for one in fault.victim if not one.isdigit()).replace("- ", " ")
    return f"{victim.rstrip('-')}: {fault.kind}"


async def _pause(process: psutil.Process, seconds: float) -> None:
    process.suspend()
    await asyncio.sleep(seconds)
    try:
        process.resume()
    except psutil.NoSuchProcess:
        return  # somebody has ended it meanwhile
