"""The torch back end as the agent sees it. It imports neither PyTorch nor transformers."""

import asyncio
import json
import math
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from engineshed.agent.engines.checkpoint import Layout, read_layout
from engineshed.agent.engines.interface import (
    BuildRequest,
    EngineBuildError,
    Fit,
    Probe,
    Progress,
    Runtime,
)
from engineshed.agent.engines.torch.repository import write_repository
from engineshed.agent.engines.torch.task import (
    DEFAULT_MAX_CONCURRENT,
    DEFAULT_MAX_CONTEXT,
    PRECISIONS,
    BuildTask,
)
from engineshed.agent.engines.torch.versions import MissingPackageError, versions
from engineshed.processes import on_a_leash
from engineshed.triton.engine import EngineManifest
from engineshed.triton.installation import TritonNotFoundError, find_triton
from engineshed.triton.launch import engine_environment

_BUILD_SECONDS: Final = 4 * 3600.0
_OVERHEAD_BYTES: Final = 600 << 20
"""What PyTorch takes before it has loaded anything."""
_GPU_OVERHEAD_BYTES: Final = 1800 << 20
"""The same on a GPU, with what Triton's server takes of it: 1.7 GiB of an H200."""
_ACTIVATIONS: Final = 0.1
"""What computing takes, as a share of the weights."""


class TorchBackend:
    """Serves with transformers on PyTorch. Implements `EngineBackend`.

    Args:
        threads: how many threads one build computes with on a CPU; None: as PyTorch likes.

    """

    name = "torch"

    def __init__(self, threads: int | None = None) -> None:
        self._threads = threads

    def probe(self) -> Probe:
        """Say whether PyTorch, transformers and Triton are here."""
        try:
            found = versions()
            find_triton()
        except MissingPackageError as error:
            reason = f"the package {error} is missing: pip install 'engineshed[torch]'"
            return Probe(available=False, reason=reason)
        except TritonNotFoundError as error:
            return Probe(available=False, reason=str(error))
        return Probe(available=True, versions=found)

    def fingerprint(self) -> Mapping[str, str]:
        """Return the versions of the packages that take part in a build."""
        return versions()

    def declines(self, request: BuildRequest) -> str:  # noqa: ARG002 - it is the last resort
        """Decline nothing: what it cannot serve, its build refuses."""
        return ""

    def recipe(self, request: BuildRequest) -> Mapping[str, object]:
        """Return what a build depends on beside checkpoint, hardware and versions."""
        _check_parameters(request)
        return {
            "max_context": request.max_context,
            "precision": request.precision,
            "max_concurrent": _max_concurrent(request),
            "max_batch_tokens": request.max_batch_tokens,
        }

    def fits(self, request: BuildRequest) -> Fit:
        """Estimate the memory: the weights, room to compute, and one request at its longest."""
        _check_parameters(request)
        layout = read_layout(request.checkpoint.directory)
        weights = _weights_bytes(layout, request.precision)
        cache = _cache_bytes(layout, request, weights)
        overhead = _OVERHEAD_BYTES if request.hardware.product == "cpu" else _GPU_OVERHEAD_BYTES
        needed = int(weights * (1 + _ACTIVATIONS)) + cache + overhead
        available = request.hardware.memory_bytes
        if not available or needed <= available:
            return Fit(True, needed, available)
        reason = f"needs about {needed >> 20} MiB, there are {available >> 20} MiB"
        return Fit(False, needed, available, reason)

    async def build(
        self, request: BuildRequest, destination: Path, progress: Progress, log: Path
    ) -> EngineManifest:
        """Build in a process of its own, which is killed when this is cancelled or the agent dies.

        Raises:
            EngineBuildError: with the reason.

        """
        _check_parameters(request)
        task = json.dumps(asdict(_task(request, destination)))
        argv = on_a_leash([sys.executable, "-m", f"{__package__}.build", task])
        with log.open("ab") as log_file:
            process = await asyncio.create_subprocess_exec(
                *argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=log_file,
                env=engine_environment(threads=self._threads)
                | {"CUDA_VISIBLE_DEVICES": ",".join(request.gpus)},
                start_new_session=True,
            )
        try:
            async with asyncio.timeout(_BUILD_SECONDS):
                await _follow(process, progress)
                status = await process.wait()
        except TimeoutError as error:
            message = f"the build did not end within {_BUILD_SECONDS:.0f} s; see its log"
            raise EngineBuildError("BUILD_TIMEOUT", message, retryable=True) from error
        finally:
            await _end(process)
        if status != 0:
            raise _died(status)
        return await asyncio.to_thread(EngineManifest.read, destination)

    def render(self, engine: Path, repository: Path, runtime: Runtime) -> None:
        """Write the model repository; the server's process must see no GPUs but the replica's."""
        write_repository(engine, repository, runtime.kv_cache_fraction)


def _check_parameters(request: BuildRequest) -> None:
    if request.quantization is not None:
        raise _refused(
            "UNSUPPORTED_QUANTIZATION",
            f"the torch back end does not quantize; quantization {request.quantization!r} "
            "needs another back end",
        )
    if request.precision is not None and request.precision not in PRECISIONS:
        raise _refused(
            "UNSUPPORTED_PRECISION",
            f"the torch back end has no precision {request.precision!r}; "
            f"it has {', '.join(PRECISIONS)}",
        )
    if request.hardware.product != "cpu" and request.hardware.count > 1:
        raise _refused(
            "UNSUPPORTED_GPU_COUNT",
            f"the torch back end serves from one GPU; {request.hardware.count} are asked for",
        )
    if request.max_batch_tokens and request.max_batch_tokens < _max_concurrent(request):
        raise _refused(
            "UNSUPPORTED_BATCH_TOKENS",
            f"serving.max_batch_tokens {request.max_batch_tokens} is less than the "
            f"{_max_concurrent(request)} requests of serving.max_batch_size, each of which takes a "
            "token of a step",
        )


def _max_concurrent(request: BuildRequest) -> int:
    if request.max_concurrent:
        return request.max_concurrent
    return min(DEFAULT_MAX_CONCURRENT, request.max_batch_tokens or DEFAULT_MAX_CONCURRENT)


def _task(request: BuildRequest, destination: Path) -> BuildTask:
    return BuildTask(
        checkpoint=str(request.checkpoint.directory),
        checkpoint_digest=request.checkpoint.digest,
        destination=str(destination),
        hardware=request.hardware.product,
        max_context=request.max_context,
        precision=request.precision,
        max_concurrent=_max_concurrent(request),
        max_batch_tokens=request.max_batch_tokens,
    )


async def _follow(process: asyncio.subprocess.Process, progress: Progress) -> None:
    """Hand on the build's progress until it has nothing more to say.

    Raises:
        EngineBuildError: the build says so.

    """
    assert process.stdout is not None, "asked for above"
    async for line in process.stdout:
        event: dict[str, Any] = json.loads(line)
        if error := event.get("error"):
            raise EngineBuildError(**error)
        progress(event["stage"], event["fraction"])


async def _end(process: asyncio.subprocess.Process) -> None:
    """Kill the build with all that it started, unless it has ended, and see it gone."""
    if process.returncode is None:
        os.killpg(process.pid, signal.SIGKILL)  # its own session, so its own group
    await process.communicate()


def _died(status: int) -> EngineBuildError:
    if status == -signal.SIGKILL:
        message = "the build was killed: most likely the machine ran out of memory"
        return EngineBuildError("BUILD_KILLED", message, retryable=True)
    message = f"the build ended with status {status} and said nothing; see its log"
    return EngineBuildError("BUILD_FAILED", message, retryable=True)


def _weights_bytes(layout: Layout, precision: str | None) -> int:
    if precision is None:
        return layout.weights_bytes
    return layout.parameter_count * (4 if precision == "float32" else 2)


def _cache_bytes(layout: Layout, request: BuildRequest, weights: int) -> int:
    """Return the bytes of keys and values of one request at its longest; 0 when unknown."""
    own = layout.stated_context
    context = request.max_context or min(own or DEFAULT_MAX_CONTEXT, DEFAULT_MAX_CONTEXT)
    itemsize = math.ceil(weights / max(layout.parameter_count, 1))
    return context * layout.token_bytes(itemsize)


def _refused(code: str, message: str) -> EngineBuildError:
    return EngineBuildError(code, message, retryable=False)
