"""Carrying faults out: each one begins, lasts, and is undone."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager

from tests.chaos.promise import Promise
from tests.chaos.schedule import Fault, Kind, Victim
from tests.chaos.world import World

Ready = Callable[[], Awaitable[str]]  # returns the id of a ready replica, or ""

_CONTROL_PLANE = ("nats", "catalog", "scheduler", "database")
_BLACKOUT = "control plane"
_SPLIT_AFTER = 700  # bytes: in the head or in the payload of some message

# Three crashes of a replica in a row, within ten minutes, fail its endpoint: never so often.
_REPLICAS_REST_S = 310.0


def victims(world: World) -> list[Victim]:
    """Return all that can be struck, and how."""
    found = [Victim(name, _kinds_of(name)) for name in world.parts]
    found += [Victim(name, (Kind.CUT, Kind.SPLIT, Kind.HANG)) for name in world.links]
    plane = frozenset(name for name in world.parts if name.startswith(_CONTROL_PLANE))
    found.append(Victim(_BLACKOUT, (Kind.BLACKOUT,), plane))
    both = frozenset({"replicas"})
    found += [
        Victim(name, (Kind.KILL,), both, _REPLICAS_REST_S) for name in ("a front", "a triton")
    ]
    return found


def _kinds_of(name: str) -> Sequence[Kind]:
    more = (Kind.WIPE,) if name == "nats" else ()
    return (Kind.KILL, Kind.KILL, Kind.PAUSE, Kind.PAUSE, *more)  # there are many more links


class Striker:
    """Strikes at the parts of a world."""

    def __init__(
        self,
        world: World,
        promise: Promise,
        victim: str,
        ready_replica: Ready,
        tell: Callable[[str], None],
    ) -> None:
        """Prepare to strike; replicas only of the endpoint `victim`."""
        self._world = world
        self._promise = promise
        self._victim = victim
        self._ready_replica = ready_replica
        self._tell = tell

    async def run(self, faults: Sequence[Fault]) -> None:
        """Carry all of them out at their time; return when the last one is over."""
        begun = time.monotonic()
        async with asyncio.TaskGroup() as running:
            for fault in faults:
                await asyncio.sleep(begun + fault.at - time.monotonic())
                lasts = f" for {fault.lasts:g} s" if fault.lasts else ""
                self._tell(f"{fault.victim}: {fault.kind}{lasts}")
                running.create_task(self._strike(fault))

    async def _strike(self, fault: Fault) -> None:
        world = self._world
        if fault.victim in world.links:
            await self._strike_link(fault)
        elif fault.victim == _BLACKOUT:
            await self._kill(fault, [one for one in world.parts if one.startswith(_CONTROL_PLANE)])
        elif fault.victim.startswith("gateway"):
            with self._excused(gateway=fault.victim):
                await self._strike_part(fault)
        elif fault.victim in world.parts:
            await self._strike_part(fault)
        else:
            await self._strike_replica(fault.victim.removeprefix("a "))

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

    async def _strike_replica(self, what: str) -> None:
        replica_id = await self._ready_replica()
        process = self._world.replica(replica_id, what) if replica_id else None
        if process is None:
            self._tell(f"no {what} to kill now")
            return
        with self._excused(endpoint=self._victim):
            process.kill()

    @contextmanager
    def _excused(
        self, *, gateway: str | None = None, endpoint: str | None = None
    ) -> Iterator[None]:
        excuse = self._promise.excuse(gateway=gateway, endpoint=endpoint)
        try:
            yield
        finally:
            excuse.over_at = time.monotonic()
