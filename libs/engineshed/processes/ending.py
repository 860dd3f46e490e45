"""Ending processes: asked first, then by force, with all that they started."""

import asyncio
import os
import signal
from collections.abc import Collection
from typing import Final

from engineshed.processes.identity import ProcessIdentity, family, is_alive

_POLL_SECONDS: Final = 0.05
_KILL_SECONDS: Final = 30.0
"""How long a killed process may take to go: freeing much memory takes its time."""


class ProcessStuckError(Exception):
    """Processes do not end although they were killed: the kernel holds them, e.g. in a driver."""


def send_signal(identity: ProcessIdentity, number: signal.Signals) -> bool:
    """Signal that very process, never one that got its pid later; False when it has ended."""
    try:
        handle = os.pidfd_open(identity.pid)
    except ProcessLookupError:
        return False
    try:
        # The handle stays with the process it was opened on: checked now, it is the right one.
        if not is_alive(identity):
            return False
        signal.pidfd_send_signal(handle, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(handle)
    return True


async def wait_until_gone(processes: Collection[ProcessIdentity], seconds: float) -> bool:
    """Return True once none of them is alive, False if that takes longer than `seconds`."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while any(is_alive(process) for process in processes):
        if loop.time() >= deadline:
            return False
        await asyncio.sleep(_POLL_SECONDS)
    return True


async def terminate(
    identity: ProcessIdentity, grace_seconds: float, ask: signal.Signals = signal.SIGTERM
) -> None:
    """End a process and all that came of it, and return when all is gone.

    The process itself alone is asked, so that it ends its children in its own order; what is left
    of its family after that, or after `grace_seconds`, is killed.

    Args:
        identity: the process.
        grace_seconds: how long it may take to end itself.
        ask: the signal that asks it to.

    Raises:
        ProcessStuckError: something does not end even so.

    """
    relatives = await asyncio.to_thread(family, identity)
    if send_signal(identity, ask):
        await wait_until_gone([identity], grace_seconds)
    await kill_family(identity, also=relatives)


async def kill_family(
    identity: ProcessIdentity, also: Collection[ProcessIdentity] = frozenset()
) -> None:
    """Kill what is left of a process and its family, and return when all is gone.

    Args:
        identity: the process; it may have ended.
        also: relatives seen earlier, whose tie to it may be cut since.

    Raises:
        ProcessStuckError: something does not end even so.

    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _KILL_SECONDS
    left = await _alive(identity, also)
    while left:
        if loop.time() >= deadline:
            pids = ", ".join(str(process.pid) for process in left)
            raise ProcessStuckError(f"processes {pids} were killed but do not end")
        for process in left:
            send_signal(process, signal.SIGKILL)
        await wait_until_gone(left, seconds=1.0)
        left = await _alive(identity, [*also, *left])  # one of them may have started another


async def _alive(
    identity: ProcessIdentity, also: Collection[ProcessIdentity]
) -> frozenset[ProcessIdentity]:
    found = await asyncio.to_thread(family, identity)
    return found | {process for process in also if is_alive(process)}
