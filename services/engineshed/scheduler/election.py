"""How a scheduler is named as a leader, and whether one that is named has certainly ended.

A name says which process it is and where that runs, so that a scheduler that is started again on
the same host need not wait until the lease of the one that crashed there has run out.
"""

import os
from pathlib import Path
from typing import Final

from engineshed import ids
from engineshed.api.scheduler.v1 import events_pb2 as pb
from engineshed.eventstore import EventStore, Leadership, Metadata
from engineshed.processes import ProcessIdentity, identify, is_alive
from engineshed.scheduler.store import SERVICE

_LEADER: Final = "scheduler/leader"
_PARTS: Final = 4  # of the identity of a process


def candidate(store: EventStore, listen: str, lease_s: float) -> Leadership:
    """Return this process's part in the leadership; it stands by until `elect`."""
    return Leadership(store, own_name(listen), lease_s=lease_s, is_gone=is_gone)


async def elect(leadership: Leadership) -> int:
    """Return the term in which this process leads, once it does."""
    return await leadership.win(
        _LEADER, lambda term: pb.SchedulerElected(term=term), Metadata(SERVICE, ids.PLATFORM)
    )


def own_name(listen: str) -> str:
    """Return the name of this process: where it listens, and which process of which host it is."""
    me = identify(os.getpid())
    return f"{listen} {me.boot_id}/{_processes_seen()}/{me.pid}/{me.start_ticks}"


def is_gone(name: str) -> bool:
    """Tell whether the process of this name has ended; never of one that cannot be seen from here.

    A stopped one has not ended.
    """
    identity = name.rpartition(" ")[2].split("/")
    if len(identity) != _PARTS:
        return False
    boot_id, seen, pid, start_ticks = identity
    me = identify(os.getpid())
    if (boot_id, seen) != (me.boot_id, _processes_seen()):
        return False
    return not is_alive(ProcessIdentity(int(pid), int(start_ticks), boot_id))


def _processes_seen() -> str:
    """Return which processes can be seen: containers on one host have the same boot, and others."""
    return str(Path("/proc/self/ns/pid").stat().st_ino)
