"""Which process is meant: its identity, and what the kernel's table says of it."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_PROC: Final = Path("/proc")
_ENDED: Final = frozenset("ZX")  # a zombie runs no more, though nobody has reaped it yet


class ProcessGoneError(Exception):
    """There is no such process."""


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """What names one process for ever."""

    pid: int
    start_ticks: int
    """When it started, in clock ticks since boot."""
    boot_id: str
    """The boot of the host that it runs in."""


@dataclass(frozen=True, slots=True)
class _Entry:
    """One line of the kernel's table of processes."""

    pid: int
    parent: int
    session: int
    start_ticks: int
    ended: bool


def boot_id() -> str:
    """Return the id of the host's present boot."""
    return (_PROC / "sys/kernel/random/boot_id").read_text().strip()


def identify(pid: int) -> ProcessIdentity:
    """Return the identity of the process that has this pid now.

    Raises:
        ProcessGoneError: none has, or it has ended and only waits to be reaped.

    """
    entry = _read(pid)
    if entry is None or entry.ended:
        raise ProcessGoneError(f"no process has the pid {pid}")
    return ProcessIdentity(pid, entry.start_ticks, boot_id())


def is_alive(identity: ProcessIdentity) -> bool:
    """Tell whether that very process still runs; a zombie does not, a stopped one does."""
    entry = _read(identity.pid)
    return (
        entry is not None
        and not entry.ended
        and entry.start_ticks == identity.start_ticks
        and identity.boot_id == boot_id()
    )


def family(identity: ProcessIdentity) -> frozenset[ProcessIdentity]:
    """Return the live processes that came of this one, itself too: its session and its descendants.

    Works after the process itself has ended, for the session that it led. A stranger is taken for
    family only if since then its pid was used again, by the leader of a new session that has ended
    as well, with children left: so ask soon after the end. Reads the whole table: a few ms.
    """
    boot = boot_id()
    if identity.boot_id != boot:
        return frozenset()
    # Nothing that it started is older than itself.
    entries = [entry for entry in _table() if entry.start_ticks >= identity.start_ticks]
    head = next((entry for entry in entries if entry.pid == identity.pid), None)
    if head is not None and head.start_ticks != identity.start_ticks:
        return frozenset()  # the pid is another's now; it could be so only after all had ended
    pids, sessions = {identity.pid}, {identity.pid}
    while found := [e for e in entries if e.pid not in pids and _belongs(e, pids, sessions)]:
        pids.update(entry.pid for entry in found)
        sessions.update(entry.pid for entry in found if entry.session == entry.pid)
    return frozenset(
        ProcessIdentity(entry.pid, entry.start_ticks, boot)
        for entry in entries
        if entry.pid in pids and not entry.ended
    )


def find_by_argument(*arguments: str) -> frozenset[ProcessIdentity]:
    """Return the live processes whose command line has these arguments next to each other."""
    wanted = b"\0" + b"\0".join(argument.encode() for argument in arguments) + b"\0"
    boot = boot_id()
    return frozenset(
        ProcessIdentity(entry.pid, entry.start_ticks, boot)
        for entry in _table()
        if not entry.ended and wanted in _command_line(entry.pid)
    )


def _belongs(entry: _Entry, pids: set[int], sessions: set[int]) -> bool:
    return entry.parent in pids or entry.session in sessions


def _table() -> Iterator[_Entry]:
    for path in _PROC.iterdir():
        if path.name.isdecimal() and (entry := _read(int(path.name))):
            yield entry


def _read(pid: int) -> _Entry | None:
    try:
        line = (_PROC / str(pid) / "stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name, in parentheses, may hold anything; what follows is counted from the last of them.
    fields = line[line.rindex(")") + 2 :].split()
    return _Entry(
        pid=pid,
        parent=int(fields[1]),
        session=int(fields[3]),
        start_ticks=int(fields[19]),
        # The first thread may have ended before the others, which hold memory and devices still.
        ended=fields[0] in _ENDED and int(fields[17]) <= 1,
    )


def _command_line(pid: int) -> bytes:
    try:
        return b"\0" + (_PROC / str(pid) / "cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return b""
