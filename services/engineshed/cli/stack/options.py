"""What is said of a stack on the command line; imported by every command, so it imports little."""

from dataclasses import dataclass
from pathlib import Path


class StackError(Exception):
    """The stack cannot be started; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class StackOptions:
    """What the user chose for a stack."""

    http_host: str
    http_port: int
    region: str
    slots: int
    simulate: str  # "h100-sxm:8", or empty
    templates: Path | None = None  # the operator's own

    @property
    def url(self) -> str:
        """The base URL of the gateway."""
        host = f"[{self.http_host}]" if ":" in self.http_host else self.http_host
        return f"http://{host}:{self.http_port}"
