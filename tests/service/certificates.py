"""Certificates as `shed certs` makes them, for the parts that a test needs."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from engineshed.cli.authority import Authority
from engineshed.runtime.tls import Tls, node_name, part_name


class Certificates:
    """An authority of one's own, and what it signs."""

    def __init__(self, folder: Path) -> None:
        self._now = datetime.now(UTC)
        self._authority = Authority.create(folder, self._now)

    def of(self, part: str, *more: str) -> Tls:
        """Return the files of a part, made now; it can be reached at 127.0.0.1."""
        names = [part_name(part), "127.0.0.1", *more]
        self._authority.issue(part, names, self._now, self._now + timedelta(days=1))
        folder = self._authority.folder
        return Tls(folder / f"{part}.crt", folder / f"{part}.key", folder / "ca.crt")

    def of_agent(self, hostname: str) -> Tls:
        """Return the files of the agent of a host."""
        return self.of("agent", node_name(hostname))
