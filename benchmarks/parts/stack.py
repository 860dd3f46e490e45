"""A whole stack, as a user starts it, for the programs that measure one."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import httpx
import psutil
from benchmarks.harness import free_port

# The parts that the stack's own figures are about; the supervisor is reported beside them.
PARTS: Final = ("nats", "catalog", "scheduler", "agent", "gateway")
SUPERVISOR: Final = "shed up"
# A replica serves the sample with one thread, in float32: what CPUs are good at.
SAMPLE: Final[dict[str, Any]] = {
    "model_name": "engineshed/sample",
    "serving": {"precision": "float32"},
}

_START_SECONDS: Final = 120.0
_STOP_SECONDS: Final = 30.0
_POLL_SECONDS: Final = 0.01

T = TypeVar("T")
Json = dict[str, Any]


@dataclass(slots=True)
class Stack:
    """A stack that is up, and a client with its operator's token."""

    directory: Path
    process: psutil.Popen
    client: httpx.Client
    ready_seconds: float  # from its start until the gateway answered

    def processes(self) -> dict[str, psutil.Process]:
        """Return the supervisor and the parts by name."""
        found = {SUPERVISOR: psutil.Process(self.process.pid)}
        for child in found[SUPERVISOR].children():
            words = child.cmdline()
            named = [word.removeprefix("engineshed.") for word in words]
            name = next((part for part in PARTS if part in named), "nats")
            found[name] = child
        return found

    def call(self, method: str, path: str, body: Json | None = None) -> Json:
        """Return what the gateway answers, which must be a success."""
        answer = self.client.request(method, path, json=body)
        if not answer.is_success:
            raise RuntimeError(f"{method} {path}: {answer.status_code} {answer.text}")
        result: Json = answer.json()
        return result

    def deploy(self, name: str) -> Json:
        """Create an endpoint of the sample model, and return it once it runs."""
        created = self.call("POST", "/v0/dedicated_endpoints", {"name": name, **SAMPLE})
        return self.until_running(created["endpoint_id"])

    def until_running(self, endpoint_id: str) -> Json:
        """Return an endpoint once it runs."""
        path = f"/v0/dedicated_endpoints/{endpoint_id}"

        def running() -> Json | None:
            found = self.call("GET", path)
            if found["status"] == "failed":
                raise RuntimeError(f"the endpoint failed: {found['status_reason']}")
            return found if found["status"] == "running" else None

        return until(f"{endpoint_id} to run", running, _START_SECONDS)

    def stop(self) -> None:
        """Stop it as Ctrl-C does."""
        self.process.send_signal(signal.SIGINT)
        self.process.wait(_STOP_SECONDS)


def until(
    what: str,
    probe: Callable[[], T | None],
    seconds: float,
    pause: float = _POLL_SECONDS,
) -> T:
    """Return what `probe` finds, once it finds something.

    Raises:
        TimeoutError: it found nothing within `seconds`.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = probe()
        if found is not None:
            return found
        time.sleep(pause)
    raise TimeoutError(f"waited {seconds:g} s in vain for {what}")


@contextmanager
def running_stack(directory: Path, *options: str) -> Iterator[Stack]:
    """Run `shed up` with its state in `directory` for the time of the block.

    From now on SIGTERM ends this program as Ctrl-C does: the stack must end before it.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    port = free_port()
    directory.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    with (directory / "up.log").open("ab") as output:
        process = psutil.Popen(
            [
                Path(sys.executable).with_name("shed"),
                *("up", "--state-dir", str(directory), "--http-port", str(port), *options),
            ],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        with httpx.Client(
            base_url=f"http://127.0.0.1:{port}", timeout=60.0, trust_env=False
        ) as client:
            until("the gateway", lambda: _ready(process, client, directory), _START_SECONDS)
            ready = time.monotonic() - began
            token = (directory / "admin.token").read_text().strip()
            client.headers["authorization"] = f"Bearer {token}"
            stack = Stack(directory, process, client, ready)
            try:
                yield stack
            finally:
                if process.poll() is None:
                    stack.stop()
    finally:
        if process.poll() is None:
            process.terminate()  # the parts and replicas end with it
            process.wait(_STOP_SECONDS)


def _ready(process: psutil.Popen, client: httpx.Client, directory: Path) -> bool | None:
    if process.poll() is not None:
        said = (directory / "up.log").read_text()
        raise RuntimeError(f"shed up ended with {process.returncode} and said: {said}")
    try:
        return client.get("/healthz").is_success or None
    except httpx.HTTPError:
        return None
