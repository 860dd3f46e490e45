"""A whole stack for tests: `shed up` in a directory of its own, and what a user does with it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx
import psutil
from tests.ports import a_free_port

BIN = Path(sys.executable).parent
START_SECONDS = 90.0
ANSWER_SECONDS = 60.0

T = TypeVar("T")
Json = dict[str, Any]


def wait_for(what: str, probe: Callable[[], T | None], seconds: float = 60.0) -> T:
    """Return what `probe` finds, once it finds something; fail when that takes too long."""
    deadline = time.monotonic() + seconds
    while True:
        found = probe()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds:g} s in vain for {what}")
        time.sleep(0.05)


@dataclass
class Stack:
    """A running stack."""

    directory: Path
    port: int
    process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def token(self) -> str:
        return (self.directory / "admin.token").read_text().strip()

    @property
    def environment(self) -> dict[str, str]:
        """What a user sets to use the command line with it."""
        return {
            **os.environ,
            "ENGINESHED_STATE_DIR": str(self.directory),
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "COLUMNS": "160",
        }

    def client(self, token: str | None = None) -> httpx.Client:
        """Return an HTTP client with the admin's token, or another one."""
        return httpx.Client(
            base_url=self.url,
            headers={"authorization": f"Bearer {token or self.token}"},
            timeout=ANSWER_SECONDS,
            trust_env=False,
        )

    def get(self, path: str) -> Json:
        with self.client() as client:
            return ok(client.get(path))

    def post(self, path: str, body: Json | None = None) -> Json:
        with self.client() as client:
            return ok(client.post(path, json=body))

    def patch(self, path: str, body: Json) -> Json:
        with self.client() as client:
            return ok(client.patch(path, json=body))

    def delete(self, path: str) -> Json:
        with self.client() as client:
            return ok(client.delete(path))

    def register(self, directory: Path, name: str = "test") -> Json:
        """Register a checkpoint and wait until it is done."""
        created = self.post("/v0/checkpoints", {"name": name, "uri": directory.as_uri()})
        path = f"/v0/checkpoints/{created['checkpoint_id']}"

        def done() -> Json | None:
            found = self.get(path)
            return found if found["status"] != "registering" else None

        return wait_for("the checkpoint", done)

    def deploy(self, checkpoint_id: str, name: str = "test", **more: Any) -> Json:
        """Create an endpoint in float32 and wait until it runs."""
        body = {
            "name": name,
            "checkpoint_id": checkpoint_id,
            "serving": {"precision": "float32"},
            **more,
        }
        endpoint = self.post("/v0/dedicated_endpoints", body)
        return self.until(endpoint["endpoint_id"], "running")

    def endpoint(self, endpoint_id: str) -> Json:
        return self.get(f"/v0/dedicated_endpoints/{endpoint_id}")

    def until(self, endpoint_id: str, status: str, seconds: float = 90.0) -> Json:
        """Wait until the endpoint has this status."""

        def reached() -> Json | None:
            found = self.endpoint(endpoint_id)
            if found["status"] == "failed" and status != "failed":
                raise AssertionError(f"the endpoint failed: {found['status_reason']}")
            return found if found["status"] == status else None

        return wait_for(f"{endpoint_id} to be {status}", reached, seconds)

    def chat(self, model: str, question: str, **more: Any) -> httpx.Response:
        """Ask greedily."""
        body = {
            "model": model,
            "messages": [{"role": "user", "content": question}],
            "temperature": 0,
            **more,
        }
        with self.client() as client:
            return client.post("/v1/chat/completions", json=body)

    def service(self, name: str) -> psutil.Process:
        """Return the process of a service."""
        return wait_for(f"the process of {name}", lambda: self._find(f"engineshed.{name}"))

    def nats(self) -> psutil.Process:
        return wait_for("nats", lambda: self._find(str(self.directory / "nats")))

    def tritons(self) -> list[psutil.Process]:
        """Return the Triton servers of this stack's replicas."""
        return [
            process
            for process in psutil.process_iter(["cmdline"])
            if any("tritonserver" in part for part in (process.info["cmdline"] or [])[:1])
            and any(str(self.directory) in part for part in process.info["cmdline"])
        ]

    def fronts(self) -> list[psutil.Process]:
        """Return the fronts of this stack's replicas."""
        return [
            process
            for process in psutil.process_iter(["cmdline"])
            if "engineshed.replica" in (process.info["cmdline"] or [])
            and any(str(self.directory) in part for part in process.info["cmdline"])
        ]

    def processes(self) -> list[psutil.Process]:
        """Return every process that has to do with this stack."""
        found = []
        for process in psutil.process_iter(["pid"]):
            try:
                about = [*process.cmdline(), *process.environ().values()]
            except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
                continue
            if any(str(self.directory) in item for item in about) and process.pid != os.getpid():
                found.append(process)
        return found

    def last_words(self, lines: int = 15) -> str:
        """Return what `shed up` said, how it ended if it did, and the end of each service's log."""
        status = self.process.poll()
        told = [f"shed up {'runs' if status is None else f'ended with {status}'}"]
        for log in (self.directory / "up.log", *sorted((self.directory / "logs").glob("*.log"))):
            said = log.read_text(errors="replace").splitlines()
            # A service that was started anew has said more since: look for what it said before.
            crashes = [line for line in said if "Traceback" in line or "Fatal" in line]
            told += [f"--- {log.name}", *crashes[-lines:], *said[-lines:]]
        return "\n".join(told)

    def stop(self) -> float:
        """Stop it as Ctrl-C does; return how many seconds that took."""
        begun = time.monotonic()
        self.process.send_signal(signal.SIGINT)
        self.process.wait(timeout=30)
        return time.monotonic() - begun

    def _find(self, argument: str) -> psutil.Process | None:
        for process in psutil.Process(self.process.pid).children():
            try:
                if any(argument in part for part in process.cmdline()):
                    return process
            except psutil.NoSuchProcess:
                continue
        return None


def ok(answer: httpx.Response) -> Json:
    assert answer.is_success, f"{answer.status_code} {answer.text}"
    result: Json = answer.json()
    return result


def start_stack(
    directory: Path,
    *options: str,
    port: int | None = None,
    environment: Mapping[str, str] | None = None,
) -> Stack:
    """Start a stack, with more in its environment, and return once its gateway answers."""
    port = port or a_free_port()
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "up.log").open("ab") as log:
        process = subprocess.Popen(
            [BIN / "shed", "up", "--state-dir", directory, "--http-port", str(port), *options],
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **(environment or {})},
            start_new_session=True,
        )
    stack = Stack(directory, port, process)

    def ready() -> bool:
        if process.poll() is not None:
            raise AssertionError(f"shed up ended: {(directory / 'up.log').read_text()}")
        try:
            return httpx.get(f"{stack.url}/healthz", timeout=2, trust_env=False).is_success
        except httpx.HTTPError:
            return False

    wait_for("the gateway", ready, START_SECONDS)
    return stack


@contextmanager
def running(
    directory: Path, *options: str, environment: Mapping[str, str] | None = None
) -> Iterator[Stack]:
    """Run a stack for the time of the block."""
    stack = start_stack(directory, *options, environment=environment)
    try:
        yield stack
    finally:
        if stack.process.poll() is None:
            stack.stop()
        for process in stack.processes():  # what a test has stopped or orphaned on purpose
            process.kill()
