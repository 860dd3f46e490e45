"""Three brokers that are one, on this machine."""

import json
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

from nats.errors import Error as NatsError
from tests.ports import a_free_port

from engineshed.bus import Bus, BusUnavailableError
from engineshed.bus.embedded import command, config_path, write_config

from .conftest import eventually

NODES = ("n1", "n2", "n3")


class Cluster:
    """Its nodes can be killed and started again, one by one."""

    def __init__(self, directory: Path) -> None:
        self._directories = {node: directory / node for node in NODES}
        self._ports = {node: a_free_port() for node in NODES}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        first = directory / NODES[0]
        self._urls = write_config(first, self._ports[NODES[0]]).urls
        config = json.loads(config_path(first).read_text())
        ways = {node: a_free_port() for node in NODES}
        routes = [f"nats://127.0.0.1:{port}" for port in ways.values()]
        for node in NODES:
            config["server_name"] = node
            config["port"] = self._ports[node]
            config["jetstream"]["store_dir"] = str(self._directories[node] / "store")
            config["cluster"] = {
                "name": "test",
                "host": "127.0.0.1",
                "port": ways[node],
                "routes": routes,
            }
            path = config_path(self._directories[node])
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(config))

    def url(self, user: str) -> str:
        """Return the address of all nodes, for a user."""
        secret = urlsplit(self._urls[user]).password
        return ",".join(f"nats://{user}:{secret}@127.0.0.1:{port}" for port in self._ports.values())

    def start(self, *nodes: str) -> None:
        for node in nodes or NODES:
            with (self._directories[node] / "log").open("ab") as log:
                self._processes[node] = subprocess.Popen(
                    command(self._directories[node]), stdout=log, stderr=log
                )

    def kill(self, *nodes: str) -> None:
        for node in nodes or NODES:
            if process := self._processes.pop(node, None):
                process.kill()
                process.wait()


async def leader_of(bus: Bus, stream: str) -> str:
    """Return the node that leads a stream, once there is one."""
    found = ""

    async def known() -> bool:
        nonlocal found
        try:
            info = await bus.call(lambda js: js.stream_info(stream))
        except (BusUnavailableError, NatsError):
            return False
        found = info.cluster.leader or "" if info.cluster else ""
        return bool(found)

    await eventually(known)
    return found
