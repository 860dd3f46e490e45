"""Owners of endpoints, who change their minds about them again and again."""

import asyncio
import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from tests.chaos.clients import ENDPOINTS, Api, Json, RefusedError, until
from tests.chaos.promise import Promise

CONTEXTS: Final = (512, 1024, 2048)  # as good as any: each is another deployment

_LOOK_S: Final = 0.5
_NOTHING_TO_ROLL_BACK: Final = "NOTHING_TO_ROLL_BACK"  # the rollout was quicker


@dataclass(slots=True)
class Endpoint:
    """An endpoint as its owner was told that it is."""

    told: Json  # the answer to the last command
    deleted: bool = False

    @property
    def endpoint_id(self) -> str:
        """Which one it is."""
        return str(self.told["endpoint_id"])

    @property
    def path(self) -> str:
        """Where it is in the API."""
        return f"{ENDPOINTS}/{self.endpoint_id}"


@dataclass(slots=True)
class Desk:
    """Gives an owner's commands, each under a key of its own, and notes what they answer."""

    api: Api
    name: str
    _keys: "itertools.count[int]" = field(default_factory=itertools.count)

    def key(self) -> str:
        """Return a key for a command."""
        return f"{self.name} {next(self._keys)}"

    async def create(self, spec: Json) -> Endpoint:
        """Create an endpoint."""
        key = self.key()
        body = {"name": key, **spec}
        return Endpoint(await self.api.command("create", "POST", ENDPOINTS, key, body))

    async def patch(self, what: str, endpoint: Endpoint, body: Json) -> None:
        """Change what `body` names, and nothing else."""
        key = self.key()
        told = await self.api.command(what, "PATCH", endpoint.path, key, body)
        expected = {**endpoint.told, **body}
        for name in ("scaling", "serving"):
            expected[name] = {**endpoint.told[name], **body.get(name, {})}
        for name in ("description", "scaling", "serving", "gpu_count", "enabled"):
            if told[name] != expected[name]:
                self.api.surprises.append(
                    f"{what} of {endpoint.endpoint_id}: {name} is {told[name]}, "
                    f"not {expected[name]}"
                )
        endpoint.told = told

    async def post(self, what: str, endpoint: Endpoint) -> None:
        """Stop, restart or roll back."""
        path = f"{endpoint.path}/{what}"
        endpoint.told = await self.api.command(what, "POST", path, self.key())

    async def delete(self, endpoint: Endpoint) -> None:
        """Delete it for good."""
        endpoint.told = await self.api.command("delete", "DELETE", endpoint.path, self.key())
        endpoint.deleted = True


@dataclass(slots=True)
class Owner:
    """Creates endpoints, changes its mind about them again and again, deletes them."""

    desk: Desk
    spec: Json
    pause_s: tuple[float, float]
    chance: random.Random
    fewest_replicas: int
    most_replicas: int
    gpu_counts: Sequence[int]
    endpoints: list[Endpoint] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)

    async def run(self, over: asyncio.Event) -> None:
        """Go on until `over` is set and the last command is acknowledged."""
        while not over.is_set():
            endpoint = await self.desk.create(self.spec)
            self.endpoints.append(endpoint)
            while not over.is_set() and not endpoint.deleted:
                await until(over, self.chance.uniform(*self.pause_s))
                try:
                    await self._change(endpoint)
                except RefusedError as error:
                    if error.reason != _NOTHING_TO_ROLL_BACK:  # one that failed can only be deleted
                        self.refused.append(str(error))
                        await self.desk.delete(endpoint)

    async def _change(self, endpoint: Endpoint) -> None:
        desk, chance = self.desk, self.chance
        action = chance.random()
        if action < 0.15:
            await desk.delete(endpoint)
        elif action < 0.25:
            await desk.patch("describe", endpoint, {"description": desk.key()})
        elif action < 0.45:
            count = chance.randint(self.fewest_replicas, self.most_replicas)
            scaling = {"min_replicas": count, "max_replicas": max(1, count)}
            await desk.patch("scale", endpoint, {"scaling": scaling})
        elif action < 0.75:
            await self._redeploy(endpoint)
            if chance.random() < 0.3:
                await desk.post("rollback", endpoint)
        elif endpoint.told["enabled"]:
            await desk.post("stop", endpoint)
        else:
            await desk.post("restart", endpoint)

    async def _redeploy(self, endpoint: Endpoint) -> None:
        strategy = self.chance.choice(("surge", "recreate"))
        body = {
            "serving": {"max_context": self.chance.choice(CONTEXTS)},
            "gpu_count": self.chance.choice(self.gpu_counts),
            "update_strategy": strategy,
        }
        await self.desk.patch(f"redeploy ({strategy})", endpoint, body)


@dataclass(slots=True)
class Reviser:
    """Changes an endpoint that is asked all the time; only a stop and a recreation may be noticed.

    It waits after every change until that is done, so it always knows what is promised.
    """

    desk: Desk
    promise: Promise
    endpoint: Endpoint
    pause_s: tuple[float, float]
    chance: random.Random

    async def run(self, over: asyncio.Event) -> None:
        """Go on until `over` is set; in the end it has one replica, as in the beginning."""
        changes = [self._scale, self._surge, self._surge_and_roll_back, self._recreate, self._stop]
        while not over.is_set():
            # A shuffled round of all: a short run sees most of them.
            for change in self.chance.sample(changes, len(changes)):
                await until(over, self.chance.uniform(*self.pause_s))
                if over.is_set():
                    break
                await change(over)
        await self._scale_to(1)

    async def _scale(self, over: asyncio.Event) -> None:
        await self._scale_to(2)
        await self._settled(over)
        await self._scale_to(1)
        await self._settled(over)

    async def _scale_to(self, count: int) -> None:
        what = "scale up" if count > 1 else "scale down"
        scaling = {"min_replicas": count, "max_replicas": count}
        await self.desk.patch(what, self.endpoint, {"scaling": scaling})

    async def _surge(self, over: asyncio.Event) -> None:
        await self._redeploy("surge")
        await self._settled(over)

    async def _surge_and_roll_back(self, over: asyncio.Event) -> None:
        await self._redeploy("surge")
        await until(over, self.chance.uniform(0.0, 6.0))
        try:
            await self.desk.post("rollback", self.endpoint)
        except RefusedError as error:
            if error.reason != _NOTHING_TO_ROLL_BACK:
                raise
        await self._settled(over)

    async def _recreate(self, over: asyncio.Event) -> None:
        with self.promise.excusing(endpoint=self.endpoint.endpoint_id, refusals_only=True):
            await self._redeploy("recreate")
            await self._settled(over)

    async def _stop(self, over: asyncio.Event) -> None:
        with self.promise.excusing(endpoint=self.endpoint.endpoint_id, refusals_only=True):
            await self.desk.post("stop", self.endpoint)
            await until(over, self.chance.uniform(0.0, 4.0))
            await self.desk.post("restart", self.endpoint)
            await self._settled(over)

    async def _redeploy(self, strategy: str) -> None:
        now = self.endpoint.told["serving"]["max_context"]
        others = [one for one in CONTEXTS if one != now]
        body = {
            "serving": {"max_context": self.chance.choice(others)},
            "update_strategy": strategy,
        }
        await self.desk.patch(f"redeploy ({strategy})", self.endpoint, body)

    async def _settled(self, over: asyncio.Event) -> None:
        """Return once it is as it was told to be, or when all is over."""
        while not over.is_set() and not is_done(await self.desk.api.get(self.endpoint.path)):
            await until(over, _LOOK_S)


def is_done(there: Json) -> bool:
    """Tell whether an enabled endpoint has the replicas it should have, and no others."""
    present = [one for one in there["replicas"] if one["status"] not in ("stopped", "failed")]
    serving = [one for one in present if one["status"] == "ready" and not one["leaving"]]
    fewest, most = there["scaling"]["min_replicas"], there["scaling"]["max_replicas"]
    return (
        there["rollout"] is None
        and len(present) == len(serving) == there["wanted_replicas"]
        and fewest <= len(serving) <= most
    )
