"""What this host offers.

GPUs are what the driver says (NVML), or what the operator declares to simulate, or else the slots
of the CPU. Nothing is ever simulated without being told.
"""

import os
import platform
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Final

from engineshed.agent.engines.interface import Hardware
from engineshed.agent.gpus import Gpu, find_gpus
from engineshed.agent.settings import AgentSettings
from engineshed.api.scheduler.v1.node_service_pb2 import NodeInventory

CPU: Final = "cpu"

_CGROUP: Final = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class Inventory:
    """The GPUs of this host, or what stands in their place."""

    hostname: str
    region: str
    gpu_type: str
    """E.g. `h100-sxm`, or `cpu`."""
    gpu_count: int
    simulated: bool
    """The GPUs are only declared; the CPU serves in their place."""
    cores: int
    """What this process may use of the CPU."""
    memory_bytes: int
    """What this process may use of the host's memory."""
    gpus: tuple[Gpu, ...] = ()
    """The real ones, by index; empty where the CPU serves."""
    driver: str = ""
    """The version of their driver."""

    @property
    def gpu_memory_bytes(self) -> int:
        """The memory of each GPU; where the CPU serves, an equal share of the host's."""
        if self.gpus:
            return min(gpu.memory_bytes for gpu in self.gpus)
        return self.memory_bytes // self.gpu_count

    def threads(self, gpus: int) -> int:
        """Return how many CPU threads a replica on so many GPUs may compute with."""
        return max(1, self.cores // self.gpu_count) * gpus

    def hardware(self, gpus: int) -> Hardware:
        """Return what an engine on so many GPUs really runs on."""
        if self.gpus:
            return Hardware(
                product=self.gpus[0].product,
                count=gpus,
                memory_bytes=self.gpu_memory_bytes,
                architecture=self.gpus[0].compute_capability,
                driver=self.driver.partition(".")[0],
            )
        # Without real GPUs that is the CPU, whatever is declared. One replica may use all of the
        # host's memory: slots only count replicas, and a model of any size may be served alone.
        return Hardware(
            product=CPU,
            count=gpus,
            memory_bytes=self.memory_bytes,
            architecture=platform.machine(),
        )

    def of(self, indexes: Sequence[int]) -> tuple[Gpu, ...]:
        """Return a replica's GPUs; none where the CPU serves in their place."""
        return tuple(self.gpus[index] for index in indexes) if self.gpus else ()

    def visible(self, gpus: Sequence[int]) -> tuple[str, ...]:
        """Return the UUIDs of a replica's GPUs; none where the CPU serves in their place."""
        return tuple(gpu.uuid for gpu in self.of(gpus))

    def message(self, backends: Sequence[str], versions: Mapping[str, str]) -> NodeInventory:
        """Return it as the scheduler is told.

        Args:
            backends: the engine back ends that can run here.
            versions: of what they build and serve with, by package.

        """
        return NodeInventory(
            hostname=self.hostname,
            region=self.region,
            gpu_type=self.gpu_type,
            gpu_count=self.gpu_count,
            gpu_memory_bytes=self.gpu_memory_bytes,
            driver=self.driver,
            simulated=self.simulated,
            backends=backends,
            agent_version=version("engineshed"),
            gpu_product=self.gpus[0].product if self.gpus else "",
            compute_capability=self.gpus[0].compute_capability if self.gpus else "",
            gpu_uuids=[gpu.uuid for gpu in self.gpus],
            versions=versions,
        )


def take_inventory(settings: AgentSettings) -> Inventory:
    """Look at this host. Quick.

    Raises:
        GpusUnreadableError: it has GPUs, and their driver is broken.

    """
    # Who simulates does so on a host with GPUs, too: they are then not even looked at.
    found = None if settings.simulated else find_gpus()
    if found:
        gpu_type, gpu_count = found.gpus[0].gpu_type, len(found.gpus)
    else:
        gpu_type, gpu_count = settings.simulated or (CPU, settings.slots)
    return Inventory(
        hostname=socket.gethostname()[:253],
        region=settings.region,
        gpu_type=gpu_type,
        gpu_count=gpu_count,
        simulated=settings.simulated is not None,
        cores=usable_cores(),
        memory_bytes=usable_memory_bytes(),
        gpus=found.gpus if found else (),
        driver=found.driver if found else "",
    )


def usable_cores() -> int:
    """Return how many cores there are for us: of the machine, by affinity and by quota."""
    allowed = len(os.sched_getaffinity(0))
    quota, _, period = _read(_CGROUP / "cpu.max").partition(" ")
    if quota.isdecimal() and period.isdecimal():
        allowed = min(allowed, max(1, int(quota) // int(period)))
    return allowed


def usable_memory_bytes() -> int:
    """Return how much memory there is for us: the machine's, or the container's limit."""
    installed = installed_memory_bytes()
    limit = _read(_CGROUP / "memory.max")
    return min(installed, int(limit)) if limit.isdecimal() else installed


def installed_memory_bytes() -> int:
    """Return how much memory the machine has, whatever of it is for us."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""  # another version of cgroups, or none
