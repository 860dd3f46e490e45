"""The configuration of a broker of several nodes, with TLS for clients and among the nodes."""

import json
from collections.abc import Mapping, Sequence
from typing import Final

from engineshed.bus.permissions import hashed, users
from engineshed.runtime.tls import Tls

CLIENT_PORT: Final = 4222
_ROUTE_PORT: Final = 6222
_MONITOR_PORT: Final = 8222
_ROUTE_USER: Final = "route"


def cluster_config(
    nodes: Sequence[str],
    passwords: Mapping[str, str],
    route_password: str,
    tls: Tls,
    store_dir: str,
) -> str:
    """Return a configuration for every node of a cluster; each is started with its own `--name`.

    JSON is a subset of the broker's own syntax.

    Args:
        nodes: the nodes' host names; the certificate must name all of them.
        passwords: the users' passwords, of all `permissions.USERS`.
        route_password: what nodes show each other: a certificate alone makes nobody a node.
        tls: the broker's own files, as each node sees them.
        store_dir: where a node keeps its streams.

    """
    files = {
        "cert_file": str(tls.certificate),
        "key_file": str(tls.key),
        "ca_file": str(tls.authority),
        "verify": True,
        "min_version": "1.3",
    }
    config = {
        "listen": f"0.0.0.0:{CLIENT_PORT}",
        "http": f"127.0.0.1:{_MONITOR_PORT}",
        # Ours begin with the handshake; clients that cannot are told a moment later that they must.
        "tls": {**files, "handshake_first": "auto"},
        "jetstream": {"store_dir": store_dir},
        "authorization": {"users": users(passwords)},
        "cluster": {
            "name": "engineshed",
            "listen": f"0.0.0.0:{_ROUTE_PORT}",
            "tls": files,
            "authorization": {"user": _ROUTE_USER, "password": hashed(route_password)},
            "routes": [
                f"tls://{_ROUTE_USER}:{route_password}@{node}:{_ROUTE_PORT}" for node in nodes
            ],
        },
    }
    return json.dumps(config, indent=2) + "\n"
