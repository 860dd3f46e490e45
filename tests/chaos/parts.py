"""The parts of a stack, each of which can be killed, stopped and started again."""

import asyncio
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import psutil
from tests.service.bus.proxy import Proxy
from tests.service.eventstore.servers import PostgresServer

from engineshed import processes


class Part(Protocol):
    """What should run."""

    async def start(self) -> None:
        """Start it; it ends with this process at the latest."""

    def kill(self) -> None:
        """Kill it; return when it is gone."""

    def pause(self) -> None:
        """Stop it where it is."""

    def go_on(self) -> None:
        """Let it go on."""

    @property
    def ended(self) -> str:
        """How it ended; empty while it runs."""


class Service:
    """A process of ours, or the broker's."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        directory: Path,
    ) -> None:
        self._name = name
        self._log = directory / f"{name}.log"
        self._command = command
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        if self._process is not None and self._process.poll() is None:
            return  # whoever saw it ended and whoever struck it may both start it again
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: ASYNC220 - it returns at once
                processes.on_a_leash(self._command),
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    @property
    def ended(self) -> str:
        status = None if self._process is None else self._process.poll()
        if status is None:
            return ""
        said = self._log.read_text(errors="replace")[-20_000:].splitlines()
        # Logs are JSON; what else begins a line is, of a traceback, the error.
        errors = [line for line in said if line[:1].isalpha() and not line.startswith("Traceback")]
        return f"{self._name} ended with status {status}: {' '.join(errors[-1:])}"

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def pause(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)


class Link:
    """The connections of one client to all instances of one service."""

    def __init__(self, proxies: Sequence[Proxy]) -> None:
        self._proxies = proxies

    async def start(self, host: str) -> list[str]:
        """Listen; return the addresses."""
        return [f"{host}:{await proxy.start(host)}" for proxy in self._proxies]

    async def stop(self) -> None:
        """Listen no more and end all connections."""
        await asyncio.gather(*(proxy.stop() for proxy in self._proxies))

    def cut(self) -> None:
        """End all connections at once."""
        for proxy in self._proxies:
            proxy.cut()

    def cut_after(self, count: int) -> None:
        """End all connections once so many more bytes went to an instance."""
        for proxy in self._proxies:
            proxy.cut_after(count)

    def hang(self) -> None:
        """Pass nothing on either way."""
        for proxy in self._proxies:
            proxy.hang()

    def go_on(self) -> None:
        """Pass on what was held back, and what comes."""
        for proxy in self._proxies:
            proxy.go_on()


class Database:
    """A PostgreSQL server."""

    def __init__(self) -> None:
        self._server = PostgresServer()
        self._server.start()
        self.url = self._server.new_database()
        self._paused: Sequence[psutil.Process] = ()

    async def start(self) -> None:
        await asyncio.to_thread(self._server.start)

    @property
    def ended(self) -> str:
        return "" if self._server.processes() else "the database ended"

    def kill(self) -> None:
        self._server.kill()

    def pause(self) -> None:
        self._paused = self._server.processes()
        for process in self._paused:
            process.suspend()

    def go_on(self) -> None:
        for process in self._paused:
            process.resume()

    def remove(self) -> None:
        """End it, and take its data away."""
        self._server.__exit__(None, None, None)
