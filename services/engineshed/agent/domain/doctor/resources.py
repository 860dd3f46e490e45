"""What is to be said of a host's processors, memory, disk and limits."""

from collections.abc import Iterator
from typing import Final

from engineshed.agent.domain.doctor.checks import GIB, Check, Mark, gib
from engineshed.agent.domain.doctor.facts import Facts, Limits, Machine, Space, Unseen

GROUP: Final = "Host"

SHARED_MEMORY_BYTES: Final = 1 * GIB
"""Below this Triton's Python stubs and NCCL fail now and then, says NVIDIA."""
DISK_BYTES: Final = 20 * GIB
"""A checkpoint of four billion parameters, its copy and its engine."""
BUILD_MEMORY_BYTES: Final = 48 * 10**9
"""What NVIDIA wants of a host that builds an engine of 7 or 8 billion parameters."""
STACK_BYTES: Final = 64 * 2**20
"""NVIDIA's `--ulimit stack=67108864`."""


def check_host(facts: Facts) -> Iterator[Check]:
    """Say what the host has, and whether it is enough; GPUs want more."""
    if isinstance(facts.machine, Unseen):
        yield Check(GROUP, "machine", Mark.WARNING, facts.machine.reason)
    else:
        yield _check_cores(facts.machine)
        yield _check_memory(facts.machine, builds=facts.real_gpus)
    yield _check_shared_memory(facts.shared_memory)
    yield _check_disk(facts.disk)
    if isinstance(facts.limits, Unseen):
        yield Check(GROUP, "limits", Mark.WARNING, facts.limits.reason)
    else:
        yield from _check_limits(facts.limits, wanted=facts.real_gpus)


def _check_cores(machine: Machine) -> Check:
    found = str(machine.cores)
    if machine.cores < machine.installed_cores:
        found += f" of {machine.installed_cores}, by affinity or by the container's limit"
    return Check(GROUP, "CPU cores", Mark.OK, found)


def _check_memory(machine: Machine, *, builds: bool) -> Check:
    found = gib(machine.memory_bytes)
    if machine.memory_bytes < machine.installed_memory_bytes:
        found += f" by the container's limit, of {gib(machine.installed_memory_bytes)}"
    found += f"; {gib(machine.available_memory_bytes)} of the host's are free"
    if builds and machine.memory_bytes < BUILD_MEMORY_BYTES:
        hint = "NVIDIA wants 48 GB to build an engine of 8 billion parameters; torch needs less"
        return Check(GROUP, "memory", Mark.WARNING, found, hint)
    return Check(GROUP, "memory", Mark.OK, found)


def _check_shared_memory(space: Space | Unseen) -> Check:
    name = "/dev/shm"  # noqa: S108 - its name
    hint = "1 GiB is wanted: docker run --shm-size=2g, or mount -o remount,size=2g /dev/shm"
    if isinstance(space, Unseen):
        return Check(GROUP, name, Mark.MISSING, space.reason, hint)
    found = f"{gib(space.free_bytes)} free of {gib(space.total_bytes)}"
    if space.free_bytes < SHARED_MEMORY_BYTES:
        return Check(GROUP, name, Mark.WARNING, found, hint)
    return Check(GROUP, name, Mark.OK, found)


def _check_disk(space: Space | Unseen) -> Check:
    name = "disk"
    hint = "ENGINESHED_STATE_DIR says where; a checkpoint and its engine take 2.5 times its weights"
    if isinstance(space, Unseen):
        return Check(GROUP, name, Mark.MISSING, space.reason, hint)
    found = f"{gib(space.free_bytes)} free of {gib(space.total_bytes)}, {space.path}"
    if space.free_bytes < DISK_BYTES:
        return Check(GROUP, name, Mark.WARNING, found, hint)
    return Check(GROUP, name, Mark.OK, found)


def _check_limits(limits: Limits, *, wanted: bool) -> Iterator[Check]:
    for name, limit, enough, option in (
        ("locked memory", limits.locked_memory, None, "memlock=-1"),
        ("stack", limits.stack, STACK_BYTES, "stack=67108864"),
    ):
        found = "unlimited" if limit is None else f"{limit // 1024} KiB"
        too_low = limit is not None and (enough is None or limit < enough)
        if wanted and too_low:
            hint = f"docker run --ulimit {option}; with systemd LimitMEMLOCK= and LimitSTACK="
            yield Check(GROUP, name, Mark.WARNING, found, hint)
        else:
            yield Check(GROUP, name, Mark.OK, found)
