"""What the host has left, whether that suffices for a build, and what a build is seen to take."""

import os
import shutil
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from engineshed.agent.engines.interface import EngineBuildError
from engineshed.processes import ProcessIdentity

_PROC: Final = Path("/proc")
_CGROUP: Final = Path("/sys/fs/cgroup")
_SHARED_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - where it is

_COMFORT: Final = 3
"""A build wants so many times the weights in memory; with less it may go well, or not."""
_DISK: Final = 2.5
"""The checkpoint, the intermediate one and the engine, as a multiple of the weights."""
_SHARED_BYTES: Final = 1 << 30
_TICKS: Final = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Room:
    """What is free."""

    memory_bytes: int
    disk_bytes: int
    shared_memory_bytes: int


def room_for_builds(folder: Path) -> Room:
    """Return what is free of this host for a build in `folder`."""
    return Room(
        memory_bytes=_available_memory(),
        disk_bytes=shutil.disk_usage(folder).free,
        shared_memory_bytes=_free_of(_SHARED_MEMORY),
    )


def check_room(room: Room, weights: int, gpus: int) -> str:
    """Return what gives rise to concern, for the log; "" when nothing does. Pure.

    Args:
        room: what is free.
        weights: the bytes of the weights as they are stored.
        gpus: how many the engine is for.

    Raises:
        EngineBuildError: a build cannot succeed with so little.

    """
    if room.memory_bytes < weights:
        raise EngineBuildError(
            "NOT_ENOUGH_HOST_MEMORY",
            f"the weights have {_gb(weights)}, and of the host's memory {_gb(room.memory_bytes)} "
            "are free: give the container more, or build on a larger host",
            retryable=True,
        )
    if room.disk_bytes < _DISK * weights:
        raise EngineBuildError(
            "DISK_FULL",
            f"checkpoint, intermediate and engine take about {_gb(_DISK * weights)}, and "
            f"{_gb(room.disk_bytes)} of the disk are free: make room, or name another place in "
            "ENGINESHED_STATE_DIR",
            retryable=True,
        )
    if gpus > 1 and room.shared_memory_bytes < _SHARED_BYTES:
        raise EngineBuildError(
            "SHM_TOO_SMALL",
            f"{_SHARED_MEMORY} has {_gb(room.shared_memory_bytes)} free, where several GPUs want "
            "1 GB: docker run --shm-size=2g",
            retryable=True,
        )
    if room.memory_bytes < _COMFORT * weights:
        return (
            f"a build may need {_COMFORT} times the weights ({_gb(weights)}) in memory, and "
            f"{_gb(room.memory_bytes)} are free: if it is killed, that is why"
        )
    return ""


def computed_seconds(processes: Collection[ProcessIdentity]) -> float:
    """Return what processes have computed, with children of theirs that have ended."""
    return sum(map(_cpu_ticks, processes)) / _TICKS


def oom_kills() -> int:
    """Return how often the kernel has killed in this container for want of memory; 0: unknown."""
    for line in _read(_CGROUP / "memory.events").splitlines():
        name, _, count = line.partition(" ")
        if name == "oom_kill" and count.isdecimal():
            return int(count)
    return 0


def _cpu_ticks(process: ProcessIdentity) -> int:
    line = _read(_PROC / str(process.pid) / "stat")
    # The name, in parentheses, may hold anything; what follows is counted from the last of them.
    fields = line[line.rfind(")") + 2 :].split()
    return sum(map(int, fields[11:15])) if len(fields) > 15 else 0


def _available_memory() -> int:
    lines = _read(_PROC / "meminfo").splitlines()
    named = dict(line.split(":", 1) for line in lines if ":" in line)
    free = int(named["MemAvailable"].split()[0]) * 1024
    limit, used = _read(_CGROUP / "memory.max"), _read(_CGROUP / "memory.current")
    if limit.isdecimal() and used.isdecimal():
        return min(free, max(int(limit) - int(used) + _reclaimable(), 0))
    return free


def _reclaimable() -> int:
    """Return what the container's page cache takes, which the kernel gives up for a program."""
    lines = _read(_CGROUP / "memory.stat").splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("inactive_file "))


def _free_of(folder: Path) -> int:
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return 0


def _gb(size: float) -> str:
    return f"{size / 1e9:.1f} GB"


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""  # it has ended; or there is another version of cgroups, or none
