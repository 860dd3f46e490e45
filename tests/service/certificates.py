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
        return self._issue(part, [part_name(part), *more])

    def of_agent(self, hostname: str) -> Tls:
        """Return the files of the agent of a host."""
        return self._issue(f"agent-{hostname}", [part_name("agent"), node_name(hostname)])

    def _issue(self, stem: str, names: list[str]) -> Tls:
        tomorrow = self._now + timedelta(days=1)
        self._authority.issue(stem, [*names, "127.0.0.1"], self._now, tomorrow)
        folder = self._authority.folder
        return Tls(folder / f"{stem}.crt", folder / f"{stem}.key", folder / "ca.crt")
