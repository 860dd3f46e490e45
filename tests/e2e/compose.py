"""The services of compose.yaml as processes on this machine, with the same commands and variables.

What a container would have of its own is mapped, and nothing else:

- its name and network: an address of the loopback network for each service
- what is mounted into it: folders below one of the test's own
- PostgreSQL: the one from PyPI, which has no TLS; so its URL is another one
- what is in another image: NATS from PyPI, and this Python
"""

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any, Final

import psutil
import yaml
from tests.service.eventstore.servers import PostgresServer

ROOT: Final = Path(__file__).resolve().parents[2]
BIN: Final = Path(sys.executable).parent

Service = dict[str, Any]


class Deployment:
    """The processes, and the folder of all they have."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.secrets = folder / "secrets"
        self.node = socket.gethostname()
        variables = {
            "ENGINESHED_USER": f"{os.getuid()}:{os.getgid()}",
            "ENGINESHED_DATA": str(folder / "data"),
            "ENGINESHED_IMPORTS": str(folder / "imports"),
            "ENGINESHED_CALIBRATION": str(folder / "calibration"),
            "ENGINESHED_SECRETS": str(self.secrets),
            "ENGINESHED_NODE": self.node,
        }
        text = _interpolated((ROOT / "compose.yaml").read_text(), variables)
        self.compose: dict[str, Any] = yaml.safe_load(text)
        self.services: dict[str, Service] = self.compose["services"]
        self.hosts = {name: f"127.0.1.{n}" for n, name in enumerate(self.services, start=1)}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._stopped: set[str] = set()

    def prepare(self, database_url: str) -> None:
        """Make certificates and secrets as an operator does, and give each service its own."""
        nats = [self.hosts[name] for name in self.services if name.startswith("nats-")]
        named = [f"nats={host}" for host in nats] + [f"{self.node}={self.hosts['agent']}"]
        self.shed("certs", self.secrets, "--node", self.node, *_options("--name", named))
        self.shed("secrets", self.secrets, *_options("--nats", nats))
        (self.secrets / "database.url").write_text(database_url)
        for name in self.services:
            self._mount(name)

    def start(self) -> None:
        for name, service in self.services.items():
            if name != "postgres":
                assert service["restart"] == "unless-stopped"
                self._run(name)
                Thread(target=self._keep_running, args=(name,), daemon=True).start()

    def probe(self, name: str) -> str:
        """Return what the health check of the image says; empty: all is well."""
        run = subprocess.run(
            [sys.executable, "-m", "engineshed.rpc.probe"],
            env=self.environment(name),
            capture_output=True,
            text=True,
            timeout=30,
        )
        return f"{name}: {run.stderr}" if run.returncode else ""

    def kill(self, name: str) -> None:
        self._stopped.add(name)
        self._processes[name].kill()
        self._processes[name].wait()

    def end(self) -> None:
        """Stop everything, replicas that outlive their agent too."""
        self._stopped.update(self._processes)
        for process in self._processes.values():
            process.terminate()
        for process in self._processes.values():
            process.wait(timeout=30)
        for found in psutil.process_iter(["cmdline"]):
            if any(str(self.folder) in part for part in found.info["cmdline"] or []):
                found.kill()

    def environment(self, name: str) -> dict[str, str]:
        """Return all of the variables that the process of a service has."""
        path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
        own = self.services[name].get("environment", {})
        # Filled in before it is parsed, an empty one looks as if it had no value.
        given = {key: "" if value is None else value for key, value in own.items()}
        return {"PATH": path, **{key: self.mapped(name, value) for key, value in given.items()}}

    def mapped(self, name: str, text: str) -> str:
        """Return a text as the process of a service must have it on this machine."""
        if text in self.hosts:  # a host name and nothing else
            return self.hosts[text]
        schedulers = [f"{self.hosts[one]}:7002" for one in self.services if "scheduler" in one]
        text = text.replace("dns:///scheduler:7002", f"ipv4:{','.join(schedulers)}")
        text = re.sub(r"0\.0\.0\.0|127\.0\.0\.1", self.hosts[name], text)
        hosts = "|".join(self.hosts)
        text = re.sub(rf"\b({hosts})(?=:\d)", lambda found: self.hosts[found[1]], text)
        mounts = self._mounts(name)
        targets = "|".join(sorted(map(re.escape, mounts), key=len, reverse=True))
        return re.sub(
            rf'(?<![\w/.-])(?P<scheme>file://)?(?P<path>{targets})(?=[/"\s]|$)',
            lambda found: (found["scheme"] or "") + str(mounts[found["path"]]),
            text,
        )

    def logs(self, lines: int = 12) -> str:
        return "\n".join(
            "\n".join([f"--- {log.stem}", *log.read_text(errors="replace").splitlines()[-lines:]])
            for log in sorted(self.folder.glob("*.log"))
        )

    def shed(self, *arguments: object) -> None:
        subprocess.run([BIN / "shed", *map(str, arguments)], check=True, capture_output=True)

    def _mounts(self, name: str) -> dict[str, Path]:
        service = self.services[name]
        mounts = {"/run/secrets": self.folder / name / "secrets"}
        mounts |= dict.fromkeys(service.get("tmpfs", ()), self.folder / name / "tmpfs")
        for volume in service.get("volumes", ()):
            source, target, *_ = volume.split(":")
            mounts[target] = Path(source) if Path(source).is_absolute() else ROOT / source
        return mounts

    def _mount(self, name: str) -> None:
        service, mounts = self.services[name], self._mounts(name)
        for folder in mounts.values():
            if not folder.exists():
                folder.mkdir(parents=True, mode=0o700)
        for secret in service["secrets"]:
            source = secret if isinstance(secret, str) else secret["source"]
            target = secret if isinstance(secret, str) else secret["target"]
            text = Path(self.compose["secrets"][source]["file"]).read_text()
            file = mounts["/run/secrets"] / target
            file.write_text(text if target == "database.url" else self.mapped(name, text))
            file.chmod(0o600)

    def _command(self, name: str) -> list[str]:
        service = self.services[name]
        command = [self.mapped(name, part) for part in service["command"]]
        if service["image"].startswith("nats:"):
            return [str(BIN / "nats-server"), *command]
        assert command[0] == "python"
        return [sys.executable, *command[1:]]

    def _run(self, name: str) -> None:
        command = self._command(name)
        with (self.folder / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                command, env=self.environment(name), stdout=log, stderr=log, cwd=self.folder
            )

    def _keep_running(self, name: str) -> None:
        """Start a process again whenever it ends by itself, as its restart policy says."""
        while True:
            self._processes[name].wait()
            if name in self._stopped:
                return
            self._run(name)


@contextmanager
def deployed(folder: Path) -> Iterator[Deployment]:
    """Run all services for the time of the block."""
    with PostgresServer() as database:
        deployment = Deployment(folder)
        deployment.prepare(database.new_database())
        try:
            deployment.start()
            yield deployment
        finally:
            deployment.end()


def _interpolated(text: str, variables: dict[str, str]) -> str:
    """Return the text with its `${NAME:-default}` and `${NAME:?error}` in place."""

    def value(found: re.Match[str]) -> str:
        name, default = found["name"], found["default"]
        if name in variables:
            return variables[name]
        assert default is not None, f"{name} must be set"
        return default

    return re.sub(r"\$\{(?P<name>\w+)(?::-(?P<default>[^}]*)|:\?[^}]*)?\}", value, text)


def _options(name: str, values: list[str]) -> list[str]:
    return [part for value in values for part in (name, value)]
