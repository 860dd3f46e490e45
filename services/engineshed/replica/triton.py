"""The Triton server that a replica owns: started, watched, ended."""

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
from engineshed.triton.control import (
    ModelLoadError,
    ModelTensors,
    load_model,
    read_tensors,
    wait_until_live,
)
from engineshed.triton.engine import MODEL_NAME
from engineshed.triton.installation import TritonNotFoundError, find_triton, prepare_backends
from engineshed.triton.launch import Command, Ports, server_command

LOG_NAME: Final = "triton.log"
TRACES_URL: Final = "ENGINESHED_TRITON_TRACES_URL"
"""The variable that says where Triton sends spans; unset: nowhere."""

_LIVE_SECONDS: Final = 120.0
_LOAD_SECONDS: Final = 3600.0
_METRICS_SECONDS: Final = 5.0
_STOP_SECONDS: Final = 4.0
_UNLOAD_SECONDS: Final = 0
"""The front has ended all requests before it ends Triton: unloading would only take time."""
_ATTEMPTS: Final = 3
"""Starts, since another process may take a port that was free a moment ago."""
_EVIDENCE_BYTES: Final = 2000
_EVIDENCE_LINES: Final = 8
_TABLE: Final = ("|", "+")
"""What the lines begin with in which Triton lists its options: nobody looks for a cause there."""

log = structlog.get_logger()


class TritonServer:
    """A running server; it dies with this process, whatever ends that."""

    def __init__(self, process: asyncio.subprocess.Process, command: Command, log: Path) -> None:
        self._process = process
        self._identity = identify(process.pid)
        self._family: frozenset[ProcessIdentity] = frozenset()
        self._log = log
        self.ports = command.ports
        self.pid = process.pid

    @classmethod
    async def start(
        cls, repository: Path, backends: Path, log_file: Path, threads: int
    ) -> "TritonServer":
        """Start a server for the models of `repository`; it has loaded none yet.

        Args:
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
        for attempt in range(_ATTEMPTS):
            command = server_command(
                installation,
                repository,
                Ports.free(),
                prepared,
                exit_timeout_secs=_UNLOAD_SECONDS,
                threads=threads or None,
                traces_url=os.environ.get(TRACES_URL, ""),
                heeds_sigterm=False,  # it ends when its front has no use for it any more
            )
            server = await cls._spawn(command, log_file)
            try:
                await server.unless_it_ends(wait_until_live(command.ports.http, _LIVE_SECONDS))
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
    async def _spawn(cls, command: Command, log_file: Path) -> "TritonServer":
        with log_file.open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                *command.argv,
                env=command.env,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        return cls(process, command, log_file)

    async def load(self) -> None:
        """Load the model.

        Raises:
            ReplicaFailedError: it cannot be loaded; the reason is Triton's.

        """
        try:
            await self.unless_it_ends(load_model(self.ports.http, MODEL_NAME, _LOAD_SECONDS))
        except ModelLoadError as error:
            raise ReplicaFailedError("ENGINE_LOAD_FAILED", str(error)) from error
        except TimeoutError as error:
            raise ReplicaFailedError(
                "ENGINE_LOAD_TIMEOUT", f"the engine is not loaded after {_LOAD_SECONDS:.0f} s"
            ) from error
        # When Triton is killed, what it started may outlive it for a moment.
        self._family = await asyncio.to_thread(family, self._identity)

    async def tensors(self) -> ModelTensors:
        """Return what the loaded model takes and gives.

        Raises:
            ReplicaFailedError: Triton does not tell.

        """
        try:
            return await read_tensors(self.ports.http, MODEL_NAME)
        except ModelLoadError as error:
            raise ReplicaFailedError("ENGINE_LOAD_FAILED", str(error)) from error

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
        """End it and all that it started."""
        if self._process.returncode is None:
            await terminate(self._identity, _STOP_SECONDS, ask=signal.SIGINT)
        await self._process.wait()
        await kill_family(self._identity, also=self._family)

    def _died(self) -> ReplicaFailedError:
        status = self._process.returncode
        how = f"by signal {-status}" if status is not None and status < 0 else f"with {status}"
        return ReplicaFailedError(
            "TRITON_DIED", f"Triton ended {how}; the end of its log: {_tail(self._log)}"
        )


def _tail(log_file: Path) -> str:
    with log_file.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - _EVIDENCE_BYTES))
        lines = file.read().decode(errors="replace").splitlines()
    told = [line for line in lines if line.strip() and not line.startswith(_TABLE)]
    return "\n".join(told[-_EVIDENCE_LINES:])
