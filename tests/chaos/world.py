"""A stack of production's shape on this machine: each part a process, each link cuttable."""

import asyncio
import json
import random
import socket
import sqlite3
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import aiohttp
import psutil
import psycopg
from tests.chaos.bills import Span
from tests.chaos.networks import Network, keep_names_to_ourselves
from tests.chaos.parts import Database, Link, Part, Service
from tests.service.bus.proxy import Proxy

from engineshed.bus.embedded import config_path
from engineshed.cli.stack.layout import Layout
from engineshed.cli.stack.options import StackOptions
from engineshed.cli.stack.programs import Program, programs

Record = dict[str, Any]  # what an agent remembers of a replica

START_SECONDS: Final = 90.0
GPUS_PER_AGENT: Final = 2
HARDWARE: Final = "h100-sxm"  # simulated: Triton runs, on the CPU

# So that waves of some seconds scale what they meet.
_QUICK_SCALING: Final = {
    "ENGINESHED_SCALE_TARGET": "1",
    "ENGINESHED_SCALE_UP_WINDOW_S": "3",
    "ENGINESHED_SCALE_DOWN_WINDOW_S": "10",
    "ENGINESHED_RECLAIM_IDLE_S": "3",
}
_LOOPBACK: Final = "127.0.0.1"
_DISK_MIB: Final = 256
_FILLING: Final = "filling"


@dataclass(frozen=True, slots=True)
class Shape:
    """How much there is of what."""

    schedulers: int
    gateways: int
    agents: int
    database: str  # sqlite or postgresql
    own_hosts: bool = False  # agents' own disks and networks; takes a mount namespace of our own


class World:
    """All processes and the links between them, in a directory of their own."""

    def __init__(self, directory: Path, shape: Shape) -> None:
        self.layout = Layout(directory)
        self.shape = shape
        self.parts: dict[str, Part] = {}
        self.links: dict[str, Link] = {}
        self.gateways: dict[str, str] = {}  # base URLs
        self.nats_url = ""  # of a user who may do everything, past all links
        self.catalog_address = ""
        self.scheduler_address = ""
        self.networks: dict[str, Network] = {}  # of agents
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
        if self.shape.own_hosts:
            self._make_hosts()
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
        for agent in self.agents:
            self.kill_replicas(agent)
        for part in self.parts.values():
            if isinstance(part, Database):
                part.remove()
        for network in self.networks.values():
            network.remove()
        await asyncio.gather(*(link.stop() for link in self.links.values()))

    @property
    def agents(self) -> list[str]:
        """The names of the agents."""
        return [root.name for root in self._agent_roots()]

    def running_replicas(self, agent: str = "") -> dict[str, Record]:
        """Return the replicas whose front runs, and what their agents know of them: of all, or one.

        One that has only just been started may be missing.
        """
        running = _directories_in_use()
        folders = [one for one in self._replica_folders(agent) if str(one) in running]
        return {one.name: record for one in folders if (record := _record(one))}

    def endpoints_on(self, agent: str) -> set[str]:
        """Return the endpoints that have replicas on a host."""
        return {str(one["endpoint_id"]) for one in self.running_replicas(agent).values()}

    def kill_replicas(self, agent: str) -> None:
        """Kill all processes of the replicas of a host; return when they are gone."""
        folder = str(self.layout.root / agent / "agent" / "replicas")
        killed = [
            process
            for process in psutil.process_iter(["cmdline"])
            if any(folder in part for part in process.info["cmdline"] or [])
        ]
        for process in killed:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(killed, timeout=10)

    def shared_gpus(self) -> list[str]:
        """Return the replicas whose fronts run on GPUs that another one has, as agents know it."""
        shared = []
        for agent in self.agents:
            holders: dict[int, str] = {}
            for replica_id, record in self.running_replicas(agent).items():
                shared += [f"{replica_id} on {agent}" for gpu in record["gpus"] if gpu in holders]
                holders |= dict.fromkeys(record["gpus"], replica_id)
        return shared

    def seen_serving(self) -> list[Span]:
        """Return when replicas were ready, by what their agents wrote down."""
        return [
            span
            for agent in self.agents
            for span in _seen_serving((self.layout.logs / f"{agent}.log").read_text())
        ]

    def has_own_disk(self, agent: str) -> bool:
        """Tell whether the disk of a host can be filled without harm to others."""
        return self.shape.own_hosts and agent in self.agents

    def fill_disk(self, agent: str) -> None:
        """Leave no byte free on the disk of a host."""
        with (self.layout.root / agent / _FILLING).open("wb", buffering=0) as file:
            block = bytes(1 << 16)
            while block:
                try:
                    file.write(block)
                except OSError:
                    block = block[: len(block) // 2]  # what is left is less

    def free_disk(self, agent: str) -> None:
        """Let the disk of a host have room again."""
        (self.layout.root / agent / _FILLING).unlink()

    def held_gpus(self) -> set[tuple[str, int, str]]:
        """Return node, GPU and replica of all that the scheduler's database says is taken."""
        query = "SELECT node_id, gpu, replica_id FROM {}gpus"
        database = self.parts.get("database")
        if isinstance(database, Database):
            with psycopg.connect(database.url) as connection:
                return set(connection.execute(query.format("scheduler.")).fetchall())
        (path,) = self.layout.root.glob("scheduler*.db")
        with closing(sqlite3.connect(path)) as connection:
            return set(connection.execute(query.format("")).fetchall())

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

    def _replica_folders(self, agent: str = "") -> list[Path]:
        pattern = f"{agent or 'agent-*'}/agent/replicas/*"
        return list(self.layout.root.glob(pattern))

    def _make_hosts(self) -> None:
        keep_names_to_ourselves()
        for number, root in enumerate(self._agent_roots()):
            root.mkdir()
            _mount(root)
            self.networks[root.name] = network = Network(root.name, number)
            network.create()

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
        self.scheduler_address = _one_or_several(
            [f"{_LOOPBACK}:{port}" for port in listening.values()]
        )
        ways = [await self._link(f"way to {name}", port) for name, port in listening.items()]
        common = {
            "ENGINESHED_CATALOG_ADDRESS": await self._link("way to catalog", ports["catalog"]),
            "ENGINESHED_SCHEDULER_ADDRESS": _one_or_several(ways),
            **database,
            "ENGINESHED_METRICS_LISTEN": "",  # the port is one for each kind of service
        }

        async def add(name: str, program: Program, **own: str) -> None:
            nats = await self._link(f"{name} to nats", ports["nats"], self._our_address(name))
            url = program.environment["ENGINESHED_NATS_URL"]
            url = url.replace(f"127.0.0.1:{ports['nats']}", nats)
            self._add(name, program, {**common, "ENGINESHED_NATS_URL": url, **own})

        await add("catalog", known["catalog"])
        for name, port in listening.items():
            listen = f"127.0.0.1:{port}"
            await add(name, known["scheduler"], ENGINESHED_LISTEN=listen, **_QUICK_SCALING)
        for root in self._agent_roots():
            name, schedulers = f"{root.name} to schedulers", list(listening.values())
            own = await self._links(name, schedulers, self._our_address(root.name))
            network = self.networks.get(root.name)
            await add(
                root.name,
                known["agent"],
                ENGINESHED_STATE_DIR=str(root),
                ENGINESHED_ENGINE_CACHE_MIN_FREE="1MB",  # the disk is small
                ENGINESHED_SCHEDULER_ADDRESS=_one_or_several(own),
                ENGINESHED_REPLICA_HOST=network.address if network else _LOOPBACK,
            )
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
        network, command = self.networks.get(name), program.command
        if network is not None:
            command = network.command(command)
        self.parts[name] = Service(name, command, environment, self.layout.logs)

    async def _database_settings(self) -> dict[str, str]:
        if self.shape.database == "sqlite":
            return {}
        self.parts["database"] = database = await asyncio.to_thread(Database)
        return {"ENGINESHED_DATABASE_URL": database.url}

    async def _link(self, name: str, port: int, host: str = _LOOPBACK) -> str:
        (own,) = await self._links(name, [port], host)
        return own

    async def _links(self, name: str, ports: Sequence[int], host: str) -> list[str]:
        self.links[name] = link = Link([Proxy(port) for port in ports])
        return await link.start(host)

    def _our_address(self, name: str) -> str:
        """Return where a part finds us."""
        network = self.networks.get(name)
        return network.our_address if network else _LOOPBACK

    def _add_a_user(self, port: int) -> str:
        path = config_path(self.layout.root)
        config = json.loads(path.read_text())
        config["authorization"]["users"].append({"user": "chaos", "password": "chaos"})
        path.write_text(json.dumps(config))
        return f"nats://chaos:chaos@127.0.0.1:{port}"


def _directories_in_use() -> set[str]:
    """Return what stands behind --directory in the command line of any process."""
    commands = [process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"])]
    return {
        value for command in commands for name, value in pairwise(command) if name == "--directory"
    }


def _record(replica: Path) -> Record | None:
    try:
        return dict(json.loads((replica / "record.json").read_text()))
    except (FileNotFoundError, ValueError):
        return None


def _seen_serving(log: str) -> Iterator[Span]:
    since: dict[str, datetime] = {}
    for line in log.splitlines():
        if '"replica_state"' not in line:
            continue
        said = json.loads(line)
        replica_id, at = said["replica_id"], datetime.fromisoformat(said["timestamp"])
        if (begun := since.pop(replica_id, None)) is not None:
            yield Span(replica_id, begun, at)
        if said["state"] == "STATE_READY":
            since[replica_id] = at
    for replica_id, begun in since.items():
        yield Span(replica_id, begun, None)


def _mount(folder: Path) -> None:
    """Give a folder a disk of its own; it goes with our mount namespace."""
    options = f"size={_DISK_MIB}m"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True)


def _numbers(count: int) -> range:
    return range(1, count + 1)


def _one_or_several(addresses: Sequence[str]) -> str:
    several = ",".join(addresses)
    return several if len(addresses) == 1 else f"ipv4:{several}"


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
