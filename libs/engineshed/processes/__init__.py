"""Processes that outlive who started them: naming, finding, signalling and ending them.

A pid alone names nothing: the kernel gives it to another process later. `ProcessIdentity` adds when
the process started and in which boot, so that nobody ever signals a stranger. Linux only.
"""

from engineshed.processes.ending import (
    ProcessStuckError,
    kill_family,
    send_signal,
    terminate,
    wait_until_gone,
)
from engineshed.processes.identity import (
    ProcessGoneError,
    ProcessIdentity,
    boot_id,
    family,
    find_by_argument,
    identify,
    is_alive,
)
from engineshed.processes.leash import on_a_leash

__all__ = [
    "ProcessGoneError",
    "ProcessIdentity",
    "ProcessStuckError",
    "boot_id",
    "family",
    "find_by_argument",
    "identify",
    "is_alive",
    "kill_family",
    "on_a_leash",
    "send_signal",
    "terminate",
    "wait_until_gone",
]
