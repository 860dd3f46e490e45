"""Connections that notice when the host at their other end vanishes without a word.

An answer may take as long as it likes to go on, so nothing bounds the time between two of its
bytes. Instead the kernel asks the other host now and then whether it is still there.
"""

import resource
import socket
from ssl import SSLContext
from typing import Final

import aiohttp

# Seconds.
CONNECT_SECONDS: Final = 2.0
IDLE_SECONDS: Final = 30.0  # a replica's front waits longer before it closes an idle connection
REPLICA_GONE: Final = 15
CALLER_GONE: Final = 60  # they come over worse networks

_PROBES: Final = 3
# What the client's library would add: none of it is the caller's, and answers come as they are.
_NOT_OURS: Final = ("accept", "accept-encoding", "user-agent")


def open_session(tls: SSLContext | None = None) -> aiohttp.ClientSession:
    """Return what requests to replicas are made with, over TLS where a replica's URL says so."""
    connector = aiohttp.TCPConnector(
        limit=0,  # how much a replica takes is what its own front decides
        keepalive_timeout=IDLE_SECONDS,
        ssl=tls or True,
        socket_factory=_socket,
    )
    return aiohttp.ClientSession(
        connector=connector,
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS),
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        skip_auto_headers=_NOT_OURS,
    )


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


def _socket(address: aiohttp.AddrInfoType) -> socket.socket:
    family, kind, protocol, _, _ = address
    made = socket.socket(family, kind, protocol)
    watch(made, REPLICA_GONE)
    return made
