"""Connections that notice when the host at their other end vanishes without a word.

An answer may take as long as it likes to go on, so nothing bounds the time between two of its
bytes. Instead the kernel asks the other host now and then whether it is still there.
"""

import resource
import socket
from typing import Final

# Seconds.
REPLICA_GONE: Final = 15
CALLER_GONE: Final = 60  # they come over worse networks

_PROBES: Final = 3


def watch(connection: socket.socket, seconds: int) -> None:
    """Let the connection break within about `seconds` once the other host is gone.

    Idle or not: probes find out where nothing is under way, and what is sent must be acknowledged.
    """
    step = max(1, seconds // (_PROBES + 1))
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        (socket.TCP_KEEPIDLE, step),
        (socket.TCP_KEEPINTVL, step),
        (socket.TCP_KEEPCNT, _PROBES),
        (socket.TCP_USER_TIMEOUT, seconds * 1000),
    ):
        connection.setsockopt(socket.IPPROTO_TCP, option, value)


def allow_many() -> None:
    """Raise the limit of open files as far as we may: each stream holds two connections."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
