"""What was seen of a host: plain data, part by part, for any part may be unreadable."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Unseen:
    """A part of the host that could not be looked at, or that is not there."""

    reason: str


@dataclass(frozen=True, slots=True)
class Offer:
    """What the agent would offer to the scheduler."""

    gpu_type: str
    """E.g. `h200-sxm`, or `cpu`."""
    count: int
    simulated: bool
    memory_bytes: int = 0
    """Of each GPU."""
    product: str = ""
    """The name of the real GPUs; "" where the CPU serves."""
    compute_capability: str = ""
    driver: str = ""

    @property
    def real_gpus(self) -> bool:
        """Whether replicas run on GPUs, and not on the CPU."""
        return bool(self.product)


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU that the driver lists, whether the host offers it or not."""

    uuid: str
    product: str
    offered: bool
    pcie: str = ""
    """E.g. `PCIe 5 x16`; "" where the driver does not say."""
    nvlinks: int = 0
    """Links that are up, to other GPUs or to a switch."""


@dataclass(frozen=True, slots=True)
class Traces:
    """What of NVIDIA can be seen without asking a driver."""

    kernel_driver: str
    """The version that the kernel has loaded, in a container too; "": none."""
    devices: int
    """GPUs of NVIDIA on the PCI bus."""


@dataclass(frozen=True, slots=True)
class Triton:
    """A Triton that was found. Paths are "" for what is not there."""

    server: str
    executable: bool
    version: str
    python: str
    """The library of its Python back end."""
    tensorrtllm: str
    """The library of NVIDIA's tensorrtllm back end."""
    worker: str
    """The program of that back end's worker, trtllmExecutorWorker."""


@dataclass(frozen=True, slots=True)
class Toolchain:
    """What builds TensorRT-LLM engines. Paths and versions are "" for what is not there."""

    command: str
    """The path of trtllm-build."""
    tensorrt_llm: str
    """The version of the package, as the command's own interpreter has it."""
    tensorrt: str
    examples: str
    """The folder of the conversion scripts."""
    families: tuple[str, ...]
    """The model families that have one, e.g. `llama`."""
    quantize: str
    template: str
    """The configuration of the in-flight batcher's model, to be filled in."""
    llmapi: str
    """The folder of the PyTorch model of the LLM API."""
    mpirun: str
    """What starts the servers of a model on several GPUs."""


@dataclass(frozen=True, slots=True)
class Torch:
    """PyTorch as a process of its own sees it."""

    version: str
    cuda: str
    """The version of CUDA it was built for; "": none."""
    devices: int
    """GPUs that it can compute on."""
    transformers: str
    """The version of the package; "": it is not installed."""


@dataclass(frozen=True, slots=True)
class Machine:
    """Processors and memory; what is usable is less where a container has limits."""

    cores: int
    installed_cores: int
    memory_bytes: int
    installed_memory_bytes: int
    available_memory_bytes: int
    """What nobody uses at the moment, of all that is installed."""


@dataclass(frozen=True, slots=True)
class Space:
    """The room in a file system."""

    path: str
    total_bytes: int
    free_bytes: int


@dataclass(frozen=True, slots=True)
class Limits:
    """What the kernel lets a process have, in bytes; None: whatever it wants."""

    locked_memory: int | None
    stack: int | None


@dataclass(frozen=True, slots=True)
class Backend:
    """What an engine back end of this release says of this host."""

    name: str
    available: bool
    reason: str = ""
    """Why not, and what to install."""
    versions: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Facts:
    """All that was seen of a host."""

    offer: Offer | Unseen
    gpus: tuple[Gpu, ...] | Unseen
    traces: Traces | Unseen
    triton: Triton | Unseen
    toolchain: Toolchain | Unseen
    torch: Torch | Unseen
    machine: Machine | Unseen
    shared_memory: Space | Unseen
    disk: Space | Unseen
    limits: Limits | Unseen
    backends: tuple[Backend, ...]

    @property
    def real_gpus(self) -> bool:
        """Whether replicas would run on GPUs."""
        return isinstance(self.offer, Offer) and self.offer.real_gpus

    @property
    def several_gpus(self) -> bool:
        """Whether a replica could have more than one."""
        return isinstance(self.offer, Offer) and self.offer.real_gpus and self.offer.count > 1
