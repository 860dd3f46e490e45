"""The interface of an engine back end, and the data that passes through it.

probe        can this host run it, and with what versions?
declines     should another back end serve this model?
fingerprint  what of this host changes the result of a build?
recipe       what of the request does?
fits         will the model fit into the memory there is?
build        checkpoint -> engine (a folder with engine.json)
render       engine -> Triton model repository
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from engineshed.triton.engine import EngineManifest

Progress = Callable[[str, float], None]
"""Called with a stage (`verifying`, `copying`, `loading`, `checking`, …) and its fraction done."""


class EngineBuildError(Exception):
    """A build that failed, in words for the owner of the checkpoint.

    Attributes:
        code: UPPER_SNAKE, e.g. UNKNOWN_ARCHITECTURE. Each back end's package lists its own.
        message: what is wrong, and the way out.
        retryable: false when the same build would fail again anywhere.
        evidence: the last lines of the log, for those who look for more than the message says.

    """

    def __init__(
        self, code: str, message: str, *, retryable: bool, evidence: Sequence[str] = ()
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.retryable = retryable
        self.evidence = tuple(evidence)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint that lies complete on this host."""

    directory: Path
    """The Hugging Face folder; beside its files may lie the platform's manifest.json."""
    digest: str
    """`sha256:…`, the checkpoint's identity."""


@dataclass(frozen=True, slots=True)
class Hardware:
    """What an engine runs on."""

    product: str = "cpu"
    """The GPU's product name as its driver says it, or `cpu`. Never a simulated one."""
    count: int = 1
    """How many GPUs one replica has; for `cpu`, slots."""
    memory_bytes: int = 0
    """Of each GPU; for `cpu`, what one replica may use. 0: unknown."""
    architecture: str = ""
    """The compute capability, e.g. `9.0`; for `cpu`, the machine (`x86_64`)."""
    driver: str = ""
    """The driver's major version; "" for `cpu`."""


@dataclass(frozen=True, slots=True)
class BuildRequest:
    """Everything that decides what engine comes out, and where to build it."""

    checkpoint: Checkpoint
    hardware: Hardware = Hardware()
    max_context: int | None = None
    """In tokens; None: the model's own, within the back end's default cap."""
    precision: str | None = None
    """`float32`, `bfloat16`, `float16`; None: the checkpoint's own."""
    quantization: str | None = None
    max_concurrent: int | None = None
    """Requests that the engine works on at once; None: as the back end likes."""
    max_batch_tokens: int | None = None
    """Tokens that one step takes; None: as the back end likes."""
    gpus: tuple[str, ...] = ()
    """The UUIDs of the GPUs to build on; which of them it is changes nothing of the engine."""


@dataclass(frozen=True, slots=True)
class Runtime:
    """How a replica serves an engine: it changes nothing of the engine itself."""

    gpus: tuple[int, ...] = ()
    """The indexes of the replica's GPUs on its node."""
    kv_cache_fraction: float | None = None
    """The share that keys and values take of what is free once the engine is loaded, above 0 to 1;
    None: as the back end likes."""


@dataclass(frozen=True, slots=True)
class Probe:
    """Whether a back end can run on this host."""

    available: bool
    reason: str = ""
    """Why not, and what to install; "" when it is available."""
    versions: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Fit:
    """An estimate of the memory that an engine needs on each of its GPUs."""

    fits: bool
    needed_bytes: int
    available_bytes: int
    """0: unknown, then it is taken to fit."""
    reason: str = ""
    """In words, when it does not fit."""


class EngineBackend(Protocol):
    """One way to make a checkpoint serve."""

    name: str

    def probe(self) -> Probe:
        """Say whether this host can build and run these engines. Quick: imports nothing heavy."""
        ...

    def declines(self, request: BuildRequest) -> str:
        """Return why another back end should serve this model; "" if this one can. Reads files.

        It looks at what kind of model and of hardware it is, not at what is asked of them: that is
        refused by `fits`. May block for as long as it takes to ask the back end's own libraries.

        Raises:
            EngineBuildError: they do not answer.

        """
        ...

    def fingerprint(self) -> Mapping[str, str]:
        """Return the versions that, besides the request, decide what a build yields."""
        ...

    def recipe(self, request: BuildRequest) -> Mapping[str, object]:
        """Return what of the request, beside checkpoint and hardware, decides what a build yields.

        With defaults filled in, so that saying one is the same as leaving it out. Reads files.

        Raises:
            EngineBuildError: what is asked for cannot be built.

        """
        ...

    def fits(self, request: BuildRequest) -> Fit:
        """Estimate from the checkpoint's headers whether the engine fits. Reads files.

        Raises:
            EngineBuildError: the checkpoint is such that no engine can come of it.

        """
        ...

    async def build(
        self, request: BuildRequest, destination: Path, progress: Progress, log: Path
    ) -> EngineManifest:
        """Build into the empty folder `destination`, in a process of its own that logs to `log`.

        Cancelling it ends that process and leaves what it wrote to the caller.

        Raises:
            EngineBuildError: with the reason.

        """
        ...

    def render(self, engine: Path, repository: Path, runtime: Runtime) -> None:
        """Write the Triton model repository that serves `engine` into the folder `repository`.

        Raises:
            EngineBuildError: it cannot be written, say because a template has changed.

        """
        ...
