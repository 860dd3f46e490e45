"""Who may do what at the broker, embedded or in a cluster. What is not listed here is refused.

Every service has a user of its own and a private inbox (`_INBOX_<user>`), because whoever may
subscribe to a shared `_INBOX.>` reads everybody's replies. Only `subscriber`, for whom a plain
client must work, keeps the common one.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import bcrypt

from engineshed.bus.buckets import ROUTES, TOKENS
from engineshed.bus.client import durable_name
from engineshed.bus.kv import Bucket, M
from engineshed.bus.streams import EVENTS, LOGS

SUBSCRIBER: Final = "subscriber"

_BCRYPT_ROUNDS: Final = 4  # the passwords are 256 random bits, which nobody guesses anyway


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


USERS: Final = tuple(_PERMISSIONS)


def users(passwords: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return the broker's users as its configuration has them, with hashed passwords."""
    return [
        {
            "user": user,
            "password": hashed(password),
            "permissions": {"publish": _allowed(user, password), "subscribe": [_inbox(user)]},
        }
        for user, password in passwords.items()
    ]


def hashed(password: str) -> str:
    """Return what the configuration holds of a password."""
    return bcrypt.hashpw(password.encode(), bcrypt.gensalt(_BCRYPT_ROUNDS)).decode()


def _allowed(user: str, password: str) -> list[str]:
    durable = _consume_events(durable_name(user, password)) if user in _CONSUMERS else []
    return [*_PERMISSIONS[user], *durable]


def _inbox(user: str) -> str:
    return "_INBOX.>" if user == SUBSCRIBER else f"_INBOX_{user}.>"
