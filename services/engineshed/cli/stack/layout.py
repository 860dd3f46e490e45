"""Where a stack on one machine keeps its files, and the secrets that its parts share."""

import errno
import json
import socket
from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from engineshed.auth import hash_token, new_secret
from engineshed.runtime import write_private

SERVICES: Final = ("catalog", "scheduler", "agent", "gateway", "ledger")
METRICS: Final = ("catalog", "scheduler", "agent")
"""Who serves its metrics on a port of its own, which is called `<name>-metrics`."""
_PORTS: Final = ("nats", "catalog", "scheduler", *(f"{name}-metrics" for name in METRICS))


@dataclass(frozen=True, slots=True)
class Layout:
    """The state directory and what is where in it."""

    root: Path  # absolute

    @property
    def logs(self) -> Path:
        """One log file for each service."""
        return self.root / "logs"

    @property
    def credentials(self) -> Path:
        """Tokens and keys, readable by their owner alone."""
        return self.root / "credentials"

    @property
    def admin_token(self) -> Path:
        """The token of the operator and first administrator."""
        return self.root / "admin.token"

    @property
    def gateway_url(self) -> Path:
        """The base URL of the gateway that runs here."""
        return self.root / "gateway.url"

    @property
    def artifacts(self) -> Path:
        """The artifact store: the platform's own copies of checkpoints."""
        return self.root / "artifacts"

    @property
    def replicas(self) -> Path:
        """A directory for each replica that the agent knows of."""
        return self.root / "agent" / "replicas"

    @property
    def services_file(self) -> Path:
        """Names and token hashes of the services."""
        return self.credentials / "services.json"

    @property
    def replica_key(self) -> Path:
        """The key that replicas' secrets are derived from."""
        return self.credentials / "replica.key"

    @property
    def metrics_token(self) -> Path:
        """What Prometheus sends to the services."""
        return self.credentials / "metrics.token"

    @property
    def lock(self) -> Path:
        """Locked while a stack runs here."""
        return self.root / "lock"

    def token_file(self, service: str) -> Path:
        """Return the file with the service's own token."""
        return self.credentials / f"{service}.token"

    def prepare(self) -> None:
        """Make the directories and, once, the secrets; for the holder of the lock."""
        for folder in (self.root, self.logs, self.credentials, self.artifacts):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        keep_service_tokens(self.credentials, self.services_file)
        kept_secret(self.replica_key, "key")
        kept_secret(self.metrics_token, "metrics")

    def ports(self, gateway: int) -> dict[str, int]:
        """Return the loopback ports of everything but the gateway, which has the given one.

        They are those of the last time wherever these are still free.
        """
        file = self.root / "ports.json"
        known: dict[str, int] = json.loads(file.read_text()) if file.exists() else {}
        taken = {gateway}
        ports: dict[str, int] = {}
        for name in _PORTS:
            port = known.get(name, 0)
            if not port or port in taken or why_not_free("127.0.0.1", port):
                port = _free_port(taken)
            ports[name] = port
            taken.add(port)
        write_private(file, json.dumps(ports, indent=2).encode())
        return ports


def keep_service_tokens(folder: Path, services_file: Path) -> None:
    """Make the services' tokens in `folder` that are missing, and the file of all their hashes."""
    tokens = {name: kept_secret(folder / f"{name}.token", f"svc_{name}") for name in SERVICES}
    hashes = {name: hash_token(token) for name, token in tokens.items()}
    write_private(services_file, json.dumps(hashes, indent=2).encode())


def kept_secret(path: Path, prefix: str) -> str:
    """Return the secret in a file, which is made once."""
    if not path.exists():
        write_private(path, new_secret(prefix).encode())
    return path.read_text().strip()


def why_not_free(host: str, port: int) -> str:
    """Return why no server could listen on `port` now; empty: one could."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return "it is taken" if error.errno == errno.EADDRINUSE else str(error)
        return ""


def _free_port(taken: Set[int]) -> int:
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        if port not in taken:
            return port
