"""Processors, memory, disk and limits of this host."""

import os
import resource
import shutil
from pathlib import Path
from typing import Final

from engineshed.agent.domain.doctor.facts import Limits, Machine, Space
from engineshed.agent.inventory import installed_memory_bytes, usable_cores, usable_memory_bytes

_MEMORY: Final = Path("/proc/meminfo")


def look_at_machine() -> Machine:
    """Return what there is to compute with, and what of it is ours."""
    return Machine(
        cores=usable_cores(),
        installed_cores=os.cpu_count() or 1,
        memory_bytes=usable_memory_bytes(),
        installed_memory_bytes=installed_memory_bytes(),
        available_memory_bytes=_available_memory_bytes(),
    )


def look_at_space(path: Path) -> Space:
    """Return the room where `path` is, or would be."""
    there = next(each for each in (path.absolute(), *path.absolute().parents) if each.exists())
    usage = shutil.disk_usage(there)
    return Space(str(path.absolute()), usage.total, usage.free)


def look_at_limits() -> Limits:
    """Return the limits of this process, which replicas inherit."""
    return Limits(
        locked_memory=_limit(resource.RLIMIT_MEMLOCK), stack=_limit(resource.RLIMIT_STACK)
    )


def _available_memory_bytes() -> int:
    lines = _MEMORY.read_text().splitlines()
    (line,) = (line for line in lines if line.startswith("MemAvailable:"))
    return int(line.split()[1]) * 1024


def _limit(kind: int) -> int | None:
    soft, _ = resource.getrlimit(kind)
    return None if soft == resource.RLIM_INFINITY else soft
