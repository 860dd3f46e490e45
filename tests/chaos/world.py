"""A stack of production's shape on this machine: each part a process, each link cuttable."""

import asyncio
import json
import random
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import aiohttp
import psutil
from tests.chaos.parts import Database, Part, Service
from tests.service.bus.proxy import Proxy

from engineshed.bus.embedded import config_path
from engineshed.cli.stack.layout import Layout
from engineshed.cli.stack.options import StackOptions
from engineshed.cli.stack.programs import Program, programs
from engineshed.processes import ProcessIdentity, find_by_argument, terminate

START_SECONDS: Final = 90.0
GPUS_PER_AGENT: Final = 2
HARDWARE: Final = "h100-sxm"  # simulated: Triton runs, on the CPU


@dataclass(frozen=True, slots=True)
class Shape:
    """How much there is of what."""

    schedulers: int
    gateways: int
    agents: int
    database: str  # sqlite or postgresql


class World:
    """All processes and the links between them, in a directory of their own."""

    def __init__(self, directory: Path, shape: Shape) -> None:
        self.layout = Layout(directory)
        self.shape = shape
        self.parts: dict[str, Part] = {}
        self.links: dict[str, Proxy] = {}
        self.gateways: dict[str, str] = {}  # base URLs
        self.nats_url = ""  # of a user who may do everything, past all links
        self.catalog_address = ""
        self.scheduler_address = ""
        self.down: set[str] = set()  # parts that a fault has ended and will start again
        self.fell: list[str] = []  # parts that ended by themselves

    @property
    def token(self) -> str:
        """The operator's token."""
        return self.layout.admin_token.read_text().strip()

    @property
    def agent_token(self) -> str:
        """What agents call themselves by."""
        return self.layout.token_file("agent").read_text().strip()

    async def start(self) -> None:
        """Start everything; return when all gateways answer."""
        self.layout.prepare()
        await self._make_parts()
        for part in self.parts.values():
            await part.start()
        async with asyncio.timeout(START_SECONDS), aiohttp.ClientSession() as session:
            for url in self.gateways.values():
                while not await _answers(session, f"{url}/healthz"):
                    self._require_running()
                    await asyncio.sleep(0.1)

    async def keep(self) -> None:
        """Start again what ended by itself, until cancelled."""
        while True:
            await asyncio.sleep(0.2)
            for name, part in self.parts.items():
                if name not in self.down and (how := part.ended):
                    self.fell.append(how)
                    await part.start()

    async def close(self) -> None:
        """End everything; leave nothing behind."""
        for link in self.links.values():
            link.go_on()
        for part in self.parts.values():
            part.kill()
        left = {one for folder in self._replica_folders() for one in _processes_of(folder)}
        await asyncio.gather(*(terminate(one, 2.0) for one in left))
        for part in self.parts.values():
            if isinstance(part, Database):
                part.remove()
        await asyncio.gather(*(link.stop() for link in self.links.values()))

    def running_replicas(self) -> set[str]:
        """Return the replicas whose front runs."""
        return {folder.name for folder in self._replica_folders() if _processes_of(folder)}

    def replica(self, replica_id: str, what: str) -> psutil.Process | None:
        """Return the process of a replica: its `front` or its `triton`."""
        for process in psutil.process_iter(["cmdline"]):
            command = process.info["cmdline"] or []
            if not any(replica_id in part for part in command):
                continue
            if ("tritonserver" in command[0]) == (what == "triton"):
                return process
        return None

    def wipe_broker(self) -> None:
        """Remove what the broker has stored; it must not run."""
        store = self.layout.root / "nats" / "store"
        if store.exists():
            store.rename(store.with_name(f"lost-{len(list(store.parent.glob('lost-*')))}"))

    def _require_running(self) -> None:
        for part in self.parts.values():
            if how := part.ended:
                raise RuntimeError(how)

    def _agent_roots(self) -> Iterator[Path]:
        return (self.layout.root / f"agent-{n}" for n in _numbers(self.shape.agents))

    def _replica_folders(self) -> list[Path]:
        return [one for root in self._agent_roots() for one in root.glob("agent/replicas/*")]

    async def _make_parts(self) -> None:
        first = lasting_port()
        self.layout.root.joinpath("ports.json").write_text(
            json.dumps({name: lasting_port() for name in ("nats", "catalog", "scheduler")})
        )
        options = StackOptions("127.0.0.1", first, "local", 1, f"{HARDWARE}:{GPUS_PER_AGENT}")
        known = {program.name: program for program in programs(self.layout, options)}
        ports = self.layout.ports(first)
        self.nats_url = self._add_a_user(ports["nats"])
        self._add("nats", known["nats"])
        database = await self._database_settings()

        self.catalog_address = f"127.0.0.1:{ports['catalog']}"
        listening = {
            f"scheduler-{n}": ports["scheduler"] if n == 1 else lasting_port()
            for n in _numbers(self.shape.schedulers)
        }
        self.scheduler_address = _one_or_several(list(listening.values()))
        way_to_catalog = await self._link("way to catalog", ports["catalog"])
        ways = [await self._link(f"way to {name}", port) for name, port in listening.items()]
        common = {
            "ENGINESHED_CATALOG_ADDRESS": f"127.0.0.1:{way_to_catalog}",
            "ENGINESHED_SCHEDULER_ADDRESS": _one_or_several(ways),
            **database,
            "ENGINESHED_METRICS_LISTEN": "",  # the port is one for each kind of service
        }

        async def add(name: str, program: Program, **own: str) -> None:
            nats = await self._link(f"{name} to nats", ports["nats"])
            url = program.environment["ENGINESHED_NATS_URL"].replace(str(ports["nats"]), str(nats))
            self._add(name, program, {**common, "ENGINESHED_NATS_URL": url, **own})

        await add("catalog", known["catalog"])
        for name, port in listening.items():
            await add(name, known["scheduler"], ENGINESHED_LISTEN=f"127.0.0.1:{port}")
        for root in self._agent_roots():
            await add(root.name, known["agent"], ENGINESHED_STATE_DIR=str(root))
        for n in _numbers(self.shape.gateways):
            name, port = f"gateway-{n}", first if n == 1 else lasting_port()
            root = self.layout.root / name
            await add(
                name,
                known["gateway"],
                ENGINESHED_STATE_DIR=str(root),
                ENGINESHED_HTTP_PORT=str(port),
                ENGINESHED_PUBLIC_HOST=f"localhost:{port}",
            )
            self.gateways[name] = f"http://127.0.0.1:{port}"

    def _add(self, name: str, program: Program, own: Mapping[str, str] | None = None) -> None:
        environment = {**program.environment, **(own or {})}
        self.parts[name] = Service(name, program.command, environment, self.layout.logs)

    async def _database_settings(self) -> dict[str, str]:
        if self.shape.database == "sqlite":
            return {}
        self.parts["database"] = database = await asyncio.to_thread(Database)
        return {"ENGINESHED_DATABASE_URL": database.url}

    async def _link(self, name: str, port: int) -> int:
        self.links[name] = proxy = Proxy(port)
        return await proxy.start()

    def _add_a_user(self, port: int) -> str:
        path = config_path(self.layout.root)
        config = json.loads(path.read_text())
        config["authorization"]["users"].append({"user": "chaos", "password": "chaos"})
        path.write_text(json.dumps(config))
        return f"nats://chaos:chaos@127.0.0.1:{port}"


def _processes_of(replica: Path) -> frozenset[ProcessIdentity]:
    return find_by_argument("--directory", str(replica))


def _numbers(count: int) -> range:
    return range(1, count + 1)


def _one_or_several(ports: list[int]) -> str:
    addresses = ",".join(f"127.0.0.1:{port}" for port in ports)
    return addresses if len(ports) == 1 else f"ipv4:{addresses}"


def lasting_port() -> int:
    """Return a free port below those that the kernel gives to outgoing connections.

    So nobody else takes it while its part is down.
    """
    while True:
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", random.randrange(10_000, 30_000)))
            except OSError:
                continue
            return int(probe.getsockname()[1])


async def _answers(session: aiohttp.ClientSession, url: str) -> bool:
    try:
        async with session.get(url, timeout=aiohttp.ClientTimeout(total=2)) as answer:
            return answer.ok
    except (aiohttp.ClientError, TimeoutError):
        return False
