"""The command line and the environment of a Triton server."""

import os
import shutil
import socket
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from engineshed.processes import on_a_leash
from engineshed.triton.engine import MODEL_NAME
from engineshed.triton.installation import Installation

_LOOPBACK: Final = "127.0.0.1"
_KEPT_BACK: Final = ("ENGINESHED_", "FSSPEC_", "AWS_")  # the last two are for stores of engines
_PASSED_ON: Final = ("ENGINESHED_TORCH_", "ENGINESHED_STATE_DIR")
_THREAD_VARIABLES: Final = ("ENGINESHED_TORCH_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
_OURS: Final = ("PYTHONPATH", "VIRTUAL_ENV")
"""Variables by which another interpreter would find what is this one's."""
_UNBOUND: Final = {
    "OMPI_MCA_hwloc_base_binding_policy": "none",
    "PRTE_MCA_hwloc_default_binding_policy": "none",
}
"""Tells mpirun, of Open MPI 4 and 5, not to bind each server with all its threads to one core."""
_REGIONS: Final = "triton_python_backend_shm_region_"
"""What names of shared memory of the Python back end begin with, unless it is told otherwise."""


class MpiNotFoundError(Exception):
    """An engine of several processes needs mpirun, and it is not here; the message says more."""


@dataclass(frozen=True, slots=True)
class Style:
    """How a server is started, which depends on what it serves."""

    own_interpreter: bool = True
    """Whether models in Python run in this process's interpreter, with its packages; else in the
    one that comes first without it: that of NVIDIA's image."""
    completes_config: bool = False
    """Whether a model may complete its configuration by itself."""
    ranks: int = 1
    """How many servers serve one engine together, one for each GPU. Several load it at their start,
    all of them at once, and the first one listens when they have; one alone starts with nothing."""


@dataclass(frozen=True, slots=True)
class Ports:
    """Where one server listens, on 127.0.0.1."""

    http: int
    grpc: int
    metrics: int

    @classmethod
    def free(cls) -> "Ports":
        """Return three ports that nobody listens on now."""
        return cls(*free_ports(3))


@dataclass(frozen=True, slots=True)
class Command:
    """A process to start."""

    argv: tuple[str, ...]
    env: dict[str, str]
    ports: Ports
    regions: str = ""
    """What the names of its shared memory begin with; "": they are its own business."""


def free_ports(count: int) -> list[int]:
    """Return `count` different ports of 127.0.0.1 that nobody listens on now.

    They are not reserved: start what shall listen at once, and expect that it may fail.
    """
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind((_LOOPBACK, 0))
        return [each.getsockname()[1] for each in sockets]


def server_command(
    installation: Installation,
    repository: Path,
    ports: Ports,
    backends: Path,
    *,
    style: Style = Style(),
    exit_timeout_secs: int = 30,
    threads: int | None = None,
    traces_url: str = "",
    heeds_sigterm: bool = True,
    env: Mapping[str, str] | None = None,
) -> Command:
    """Return the command that serves the models of `repository`; it loads none by itself.

    Args:
        installation: what to start.
        repository: the folder of models, as a back end rendered it.
        ports: where to listen, on loopback.
        backends: what `prepare_backends` returned.
        style: how it is started.
        exit_timeout_secs: how long it lets requests in flight finish when it is to end.
        threads: how many threads the engine computes with on a CPU; None leaves it to the engine.
        traces_url: where spans of requests that are traced go, `http://host:4318/v1/traces`: Triton
            speaks OTLP over HTTP alone. Empty: nowhere.
        heeds_sigterm: whether SIGTERM ends it, as SIGINT always does. Who shuts down a host sends
            it to all processes at once, so it is not for a server that others still work with.
        env: added to the environment, e.g. CUDA_VISIBLE_DEVICES.

    Raises:
        MpiNotFoundError: several servers are to be started, and there is no mpirun.

    """
    server = (
        str(installation.server),
        f"--model-repository={repository}",
        f"--backend-directory={backends}",
        "--model-control-mode=explicit",
        f"--http-address={_LOOPBACK}",
        f"--http-port={ports.http}",
        f"--grpc-address={_LOOPBACK}",
        f"--grpc-port={ports.grpc}",
        f"--metrics-address={_LOOPBACK}",
        f"--metrics-port={ports.metrics}",
        f"--exit-timeout-secs={exit_timeout_secs}",
        "--log-format=ISO8601",
        "--metrics-config=histogram_latencies=true",
        *(() if style.completes_config else ("--disable-auto-complete-config",)),
        *_tracing(traces_url),
    )
    environment = engine_environment(threads=threads)
    if style.own_interpreter or installation.stub is not None:  # that stub is for this one
        environment, regions = _add_paths(environment, installation), ""
    else:
        environment, regions = _without_ours(environment), f"{_REGIONS}{ports.http}_"
        server += (f"--backend-config=python,shm-region-prefix-name={regions}",)
    if style.ranks > 1:
        server = _under_mpi(server, style.ranks, environment, deaf=not heeds_sigterm)
        environment |= _UNBOUND
    argv = on_a_leash(server, deaf=not heeds_sigterm)
    return Command(argv, environment | dict(env or {}), ports, regions)


def engine_environment(*, threads: int | None = None) -> dict[str, str]:
    """Return this process's environment as far as a process that runs a model may have it.

    Our own settings stay out of it, for some are credentials, but for the state directory, by which
    one sees whose process it is; so do those of a bucket. Nothing is fetched from outside.

    Args:
        threads: how many threads it computes with on a CPU; None leaves it to the libraries.

    """
    env = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(_KEPT_BACK) or name.startswith(_PASSED_ON)
    }
    env |= {
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONUNBUFFERED": "1",
        "PYTHONSAFEPATH": "1",  # a folder named `triton` where it is started is no module of its
    }
    if threads is not None:
        env |= dict.fromkeys(_THREAD_VARIABLES, str(threads))
    return env


def _tracing(url: str) -> tuple[str, ...]:
    if not url:
        return ()
    settings = (
        "mode=opentelemetry",
        "level=TIMESTAMPS",
        "rate=0",  # of requests that bring no trace; those that do are traced whatever it is
        f"opentelemetry,url={url}",
        "opentelemetry,resource=service.name=engineshed-triton",
    )
    return tuple(f"--trace-config={setting}" for setting in settings)


def _under_mpi(
    server: tuple[str, ...], ranks: int, env: Mapping[str, str], *, deaf: bool
) -> tuple[str, ...]:
    """Return the command that starts so many servers of one engine.

    All have the same ports: those beyond the first never get so far as to listen.
    """
    if shutil.which("mpirun", path=env.get("PATH")) is None:
        raise MpiNotFoundError(
            f"this engine needs {ranks} GPUs, and with them mpirun, which is not on PATH; NVIDIA's "
            "image has it"
        )
    command = ["mpirun", "--allow-run-as-root"]  # with a path it would change its libraries
    for rank in range(ranks):
        apart = f"{server[-1]}{rank}_"  # they must not share their shared memory
        one = (*server[:-1], apart, f"--load-model={MODEL_NAME}")
        leashed = on_a_leash(one, deaf=deaf, started_by_us=False)
        command += [*([":"] if rank else []), "-n", "1", *leashed]
    return tuple(command)


def _without_ours(env: dict[str, str]) -> dict[str, str]:
    """Leave out what would lead a model to this interpreter, unless that is the only one."""
    if sys.prefix == sys.base_prefix:
        return env
    own = str(Path(sys.prefix) / "bin")
    folders = [folder for folder in env.get("PATH", "").split(os.pathsep) if folder != own]
    kept = {name: value for name, value in env.items() if name not in _OURS}
    return kept | {"PATH": os.pathsep.join(folders)}


def _add_paths(env: dict[str, str], installation: Installation) -> dict[str, str]:
    # The stub embeds the interpreter that it finds first, and with it that one's packages.
    paths = {"PATH": [Path(sys.prefix) / "bin"], "LD_LIBRARY_PATH": installation.libraries}
    added = {
        name: os.pathsep.join([*map(str, first), *filter(None, [env.get(name)])])
        for name, first in paths.items()
    }
    return env | {name: value for name, value in added.items() if value}
