"""Hosts with a network of their own: a namespace, tied to ours by one cable that can be pulled."""

import random
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

_MOST_HOSTS: Final = 60
_NAMES: Final = Path("/run/netns")


class Network:
    """A host's network; what is sent while it is down gets lost, as packets do."""

    def __init__(self, host: str, number: int) -> None:
        """Name what `create` makes; `number` tells the hosts of a run apart, from 0."""
        assert number < _MOST_HOSTS
        # A range that is set aside for tests (RFC 2544); by chance nobody else's on this machine.
        net = f"198.{random.choice((18, 19))}.{random.randrange(256)}"
        self.our_address, self.address = f"{net}.{4 * number + 1}", f"{net}.{4 * number + 2}"
        self._name = f"{host}-{net}"
        self._cable = f"ch{net[4:].replace('.', 'x')}n{number}"

    def create(self) -> None:
        """Make it, and plug it in. It ends with our mount namespace and what runs in it."""
        inside = self._inside
        _ip("netns", "add", self._name)
        _ip("link", "add", self._cable, "type", "veth", "peer", "name", inside)
        _ip("link", "set", inside, "netns", self._name)
        _ip("address", "add", f"{self.our_address}/30", "dev", self._cable)
        _ip("-n", self._name, "address", "add", f"{self.address}/30", "dev", inside)
        for device in ("lo", inside):
            _ip("-n", self._name, "link", "set", device, "up")
        _ip("link", "set", self._cable, "up")

    def command(self, argv: Sequence[str]) -> tuple[str, ...]:
        """Return the command that runs `argv` on the host."""
        return ("ip", "netns", "exec", self._name, *argv)

    def pull(self) -> None:
        """Lose all packets, both ways.

        The device stays up: what is sent to one that is down is not lost, but routed elsewhere.
        """
        self._filter("-I")

    def plug_in(self) -> None:
        """Carry packets again."""
        self._filter("-D")

    def remove(self) -> None:
        """Take it away; what runs on the host has nothing to do with it."""
        _ip("link", "delete", self._cable)
        _ip("netns", "delete", self._name)

    @property
    def _inside(self) -> str:
        """The other end of the cable."""
        return f"{self._cable}i"

    def _filter(self, action: str) -> None:
        for chain, way in (("INPUT", "-i"), ("OUTPUT", "-o")):
            rule = ("iptables", action, chain, way, self._inside, "-j", "DROP")
            subprocess.run(self.command(rule), check=True, capture_output=True)


def keep_names_to_ourselves() -> None:
    """Let the names of networks end with our mount namespace, however that ends."""
    _NAMES.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(_NAMES)], check=True)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)
