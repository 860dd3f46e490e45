"""What the node remembers of itself: who it is, and the last leader that it obeyed."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter

from engineshed import ids
from engineshed.runtime import write_private


class AgentRunningError(Exception):
    """Another agent works in the same folder."""


@dataclass(frozen=True, slots=True)
class Node:
    """The content of node.json."""

    node_id: str
    term: int = 0
    """The highest term that a desired state came from. Remembered, so that after a restart a
    leader that was replaced is not believed."""


_NODE: Final = TypeAdapter(Node)


class NodeFile:
    """node.json. Blocks for a moment when it writes."""

    def __init__(self, folder: Path) -> None:
        """Read the file in `folder`, or make it with a new id."""
        self._path = folder / "node.json"
        try:
            self._node = _NODE.validate_json(self._path.read_bytes())
        except FileNotFoundError:
            self._write(Node(ids.new(ids.NODE)))

    @property
    def node_id(self) -> str:
        """The node's id, the same for ever."""
        return self._node.node_id

    @property
    def term(self) -> int:
        """The highest term so far."""
        return self._node.term

    def remember_term(self, term: int) -> None:
        """Remember it if it is higher than all before."""
        if term > self._node.term:
            self._write(replace(self._node, term=term))

    def _write(self, node: Node) -> None:
        write_private(self._path, _NODE.dump_json(node))
        self._node = node


@contextmanager
def sole_agent(folder: Path) -> Iterator[None]:
    """Hold the folder for this process; the kernel lets go of it when the process ends.

    Raises:
        AgentRunningError: another agent holds it.

    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(lock)
        raise AgentRunningError(f"another agent works in {folder}; stop it first") from error
    try:
        yield
    finally:
        os.close(lock)
