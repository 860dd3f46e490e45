"""Ports for what a test starts."""

import random
import socket
from typing import Final

# Below those that outgoing connections take, so that none of them gets it before it is listened
# on; and drawn by chance, so that two test runs beside each other do not want the same.
_RANGE: Final = range(20_000, 32_000)


def a_free_port() -> int:
    """Return a port of 127.0.0.1 that nobody listens on."""
    while True:
        port = random.SystemRandom().choice(_RANGE)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
