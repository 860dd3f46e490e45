"""An operator, who takes hosts out of use and gives them back, one at a time."""

import asyncio
import random
from dataclasses import dataclass
from typing import Final

from tests.chaos.clients import NODES, Api, until

_STAYS_S: Final = {"cordon": (1.0, 6.0), "drain": (4.0, 16.0)}


@dataclass(slots=True)
class Operator:
    """Cordons and drains the hosts of one region."""

    api: Api
    region: str
    pause_s: tuple[float, float]
    chance: random.Random

    async def run(self, over: asyncio.Event) -> None:
        """Go on until `over` is set; in the end all hosts are in use."""
        while not over.is_set():
            await until(over, self.chance.uniform(*self.pause_s))
            if over.is_set():
                return
            hosts = sorted(
                node["node_id"]
                for node in (await self.api.get(NODES))["data"]
                if node["region"] == self.region
            )
            host = self.chance.choice(hosts)
            what = self.chance.choice(("cordon", "drain", "drain"))
            await self._do(what, host)
            await until(over, self.chance.uniform(*_STAYS_S[what]))
            await self._do("uncordon", host)

    async def _do(self, what: str, host: str) -> None:
        await self.api.command(f"{what} a host", "POST", f"{NODES}/{host}/{what}", "")
