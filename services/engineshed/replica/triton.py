"""The Triton server that a replica owns: started, watched, ended.

An engine of several GPUs has as many servers, which one mpirun starts and ends.
"""

import asyncio
import os
import signal
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Final

import aiohttp
import structlog

from engineshed.processes import ProcessIdentity, family, identify, kill_family, terminate
from engineshed.replica.failure import ReplicaFailedError
from engineshed.replica.triton_log import TritonLog
from engineshed.triton import orphan
from engineshed.triton.control import (
    ModelLoadError,
    ModelTensors,
    ServerLostError,
    load_model,
    read_tensors,
    wait_until_live,
)
from engineshed.triton.engine import MODEL_NAME, EngineManifest
from engineshed.triton.installation import (
    Installation,
    TritonNotFoundError,
    find_triton,
    prepare_backends,
)
from engineshed.triton.launch import Command, MpiNotFoundError, Ports, Style, server_command

TRACES_URL: Final = "ENGINESHED_TRITON_TRACES_URL"
"""The variable that says where Triton sends spans; unset: nowhere."""
STALL: Final = "ENGINESHED_LOAD_STALL_S"
"""The variable that says how long Triton may be silent while it loads a compiled engine."""

_LIVE_SECONDS: Final = 120.0
_LOAD_SECONDS: Final = 3600.0
_STALL_SECONDS: Final = 900.0
_METRICS_SECONDS: Final = 5.0
_END_SECONDS: Final = 5.0
_STOP_SECONDS: Final = 4.0
_UNLOAD_SECONDS: Final = 0
"""The front has ended all requests before it ends Triton: unloading would only take time."""
_ATTEMPTS: Final = 3
"""Starts, since another process may take a port that was free a moment ago."""
_TORCH: Final = "torch"
_SHARED_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - where the Python back end makes its regions

log = structlog.get_logger()


def style_of(manifest: EngineManifest) -> Style:
    """Return how a server for such an engine is started."""
    if manifest.backend == _TORCH:
        return Style()
    if manifest.interface == "text":  # it starts the processes of its GPUs itself
        return Style(own_interpreter=False, completes_config=True)
    return Style(own_interpreter=False, ranks=manifest.world_size)


class TritonServer:
    """A running server; it dies with this process, whatever ends that."""

    def __init__(
        self, process: asyncio.subprocess.Process, command: Command, style: Style, log: TritonLog
    ) -> None:
        self._process = process
        self._identity = identify(process.pid)
        self._family: frozenset[ProcessIdentity] = frozenset()
        self._style = style
        self._log = log
        self._regions = command.regions
        self._watcher: asyncio.subprocess.Process | None = None
        self._loading = True
        self.ports = command.ports
        self.pid = process.pid

    @classmethod
    async def start(
        cls,
        manifest: EngineManifest,
        repository: Path,
        backends: Path,
        log_file: Path,
        threads: int,
    ) -> "TritonServer":
        """Start a server for the engine in `repository`, of which `manifest` tells.

        It has not loaded it yet. One server answers by now, several do not before they have.

        Args:
            manifest: what it is to serve.
            repository: the folder of models.
            backends: a folder for Triton's own files, shared by the replicas of this host.
            log_file: where its output goes.
            threads: how many CPU threads the engine may use; 0 leaves it to the engine.

        Raises:
            ReplicaFailedError: it cannot be started.

        """
        try:
            installation = find_triton()
        except TritonNotFoundError as error:
            raise ReplicaFailedError("TRITON_NOT_FOUND", str(error), retryable=False) from error
        prepared = await asyncio.to_thread(prepare_backends, installation, backends)
        style = style_of(manifest)

        async def spawn() -> "TritonServer":
            command = _command(installation, repository, prepared, style, threads)
            return await cls._spawn(command, style, log_file, manifest.backend != _TORCH)

        if style.ranks > 1:
            return await spawn()
        for attempt in range(_ATTEMPTS):
            server = await spawn()
            try:
                await server.unless_it_ends(wait_until_live(server.ports.http, _LIVE_SECONDS))
            except ReplicaFailedError as failure:
                log.warning("triton_start_failed", attempt=attempt, reason=failure.message)
                last = failure
            except TimeoutError as error:
                await server.stop()
                raise ReplicaFailedError(
                    "TRITON_UNRESPONSIVE",
                    f"Triton does not answer {_LIVE_SECONDS:.0f} s after its start",
                ) from error
            except BaseException:  # cancelled: leave nothing behind
                await server.stop()
                raise
            else:
                return server
        raise last

    @classmethod
    async def _spawn(
        cls,
        command: Command,
        style: Style,
        log_file: Path,
        knows_texts: bool,
    ) -> "TritonServer":
        with log_file.open("ab") as output:
            start = output.tell()
            process = await asyncio.create_subprocess_exec(
                *command.argv,
                env=command.env,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        return cls(process, command, style, TritonLog(log_file, start, knows_texts))

    async def load(self) -> None:
        """Load the model.

        Raises:
            ReplicaFailedError: it cannot be loaded; the reason is Triton's.

        """
        if self._style.ranks > 1:  # it loads by itself, and listens then
            loading = wait_until_live(self.ports.http, _LOAD_SECONDS)
        else:
            loading = load_model(self.ports.http, MODEL_NAME, _LOAD_SECONDS)
        try:
            await self.unless_it_ends(self._unless_silent(loading))
        except ModelLoadError as error:
            if isinstance(error, ServerLostError):  # how it ended tells more, and comes in a moment
                await asyncio.wait(
                    {asyncio.create_task(self._process.wait())}, timeout=_END_SECONDS
                )
            raise self._log.load_failed(str(error), self._process.returncode) from error
        except TimeoutError as error:
            raise ReplicaFailedError(
                "ENGINE_LOAD_TIMEOUT", f"the engine is not loaded after {_LOAD_SECONDS:.0f} s"
            ) from error
        self._loading = False
        # When Triton is killed, what it started may outlive it for a moment.
        self._family = await asyncio.to_thread(family, self._identity)
        if not self._style.own_interpreter:
            await self._leave_nothing_behind()

    async def tensors(self) -> ModelTensors:
        """Return what the loaded model takes and gives.

        Raises:
            ReplicaFailedError: Triton does not tell.

        """
        try:
            return await read_tensors(self.ports.http, MODEL_NAME)
        except ModelLoadError as error:
            raise self._log.load_failed(str(error)) from error

    async def unless_it_ends(self, work: Coroutine[Any, Any, None]) -> None:
        """Do `work`, unless the server ends meanwhile.

        Raises:
            ReplicaFailedError: it ended.

        """
        working = asyncio.create_task(work)
        ending = asyncio.create_task(self._process.wait())
        try:
            await asyncio.wait({working, ending}, return_when=asyncio.FIRST_COMPLETED)
            # What is done counts; but work that failed because the server ended tells less.
            if ending.done() and (not working.done() or working.exception() is not None):
                raise self._died()
            await working
        finally:
            working.cancel()
            ending.cancel()
            await asyncio.gather(working, ending, return_exceptions=True)

    async def watch(self) -> None:
        """Raise ReplicaFailedError when the server ends."""
        await self._process.wait()
        raise self._died()

    async def metrics(self) -> str:
        """Return its metrics in Prometheus' text form; empty when it does not answer."""
        url = f"http://127.0.0.1:{self.ports.metrics}/metrics"
        timeout = aiohttp.ClientTimeout(total=_METRICS_SECONDS)
        try:
            async with aiohttp.ClientSession(timeout=timeout) as session, session.get(url) as reply:
                return await reply.text()
        except (aiohttp.ClientError, TimeoutError) as error:
            log.warning("triton_metrics_failed", reason=str(error))
            return ""

    async def stop(self) -> None:
        """End it and all that it started. How it ends means nothing: it has nothing to do."""
        if self._process.returncode is None:
            await terminate(self._identity, _STOP_SECONDS, ask=signal.SIGINT)
        await self._process.wait()
        await kill_family(self._identity, also=self._family)
        self._unname_regions()
        if self._watcher is not None:
            await self._watcher.wait()

    async def _leave_nothing_behind(self) -> None:
        """See to it that models of NVIDIA's end with the server, even if this process is killed.

        Ours do so by themselves.
        """
        self._unname_regions()
        pids = [member.pid for member in self._family if member != self._identity]
        if pids:
            self._watcher = await asyncio.create_subprocess_exec(
                *orphan.watch_command(self.pid, pids), stdin=asyncio.subprocess.DEVNULL
            )

    def _unname_regions(self) -> None:
        """Take its name from shared memory that all have who need it; it goes with the last."""
        if self._regions:
            for region in _SHARED_MEMORY.glob(f"{self._regions}*"):
                region.unlink(missing_ok=True)

    async def _unless_silent(self, work: Coroutine[Any, Any, None]) -> None:
        """Do `work`, unless a server of TensorRT-LLM writes nothing for long meanwhile.

        Rounds are counted, not seconds: time in which this process was stopped says nothing.

        Raises:
            ReplicaFailedError: it stands still.

        """
        patience = float(os.environ.get(STALL) or _STALL_SECONDS)
        working = asyncio.create_task(work)
        size, silent = self._log.size(), 0
        try:
            while not working.done() and (silent < patience or not self._log.knows_texts):
                await asyncio.wait({working}, timeout=1.0)
                silent = silent + 1 if self._log.size() == size else 0
                size = self._log.size()
            if not working.done():
                raise self._log.stalled(silent)
            await working
        finally:
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)

    def _died(self) -> ReplicaFailedError:
        return self._log.died(self._process.returncode, loading=self._loading)


def _command(
    installation: Installation, repository: Path, backends: Path, style: Style, threads: int
) -> Command:
    try:
        return server_command(
            installation,
            repository,
            Ports.free(),
            backends,
            style=style,
            exit_timeout_secs=_UNLOAD_SECONDS,
            threads=threads or None,
            traces_url=os.environ.get(TRACES_URL, ""),
            heeds_sigterm=False,  # it ends when its front has no use for it any more
        )
    except MpiNotFoundError as error:
        raise ReplicaFailedError("MPI_NOT_FOUND", str(error)) from error
