"""Replicas on disk: a folder for each, what the agent remembers of it, and how its front starts.

    replicas/<replica_id>/
        record.json    what the agent knows: whose it is, its process, how it ended
        spec.json      what the front is started with; holds the secret
        status.json    what the front tells of itself
        models/        Triton's model repository
        agent.log      how it failed, in the agent's words
    build.log front.log triton.log
    offsets.json   how much of the logs was shipped

Everything here blocks for moments: call it in a thread.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog
from google.protobuf import json_format
from pydantic import TypeAdapter, ValidationError

from engineshed import ids, processes
from engineshed.agent.domain.life import Outcome
from engineshed.api.replica.v1.replica_service_pb2 import ReplicaSpec, ReplicaState
from engineshed.api.scheduler.v1.endpoint_service_pb2 import Replica
from engineshed.processes import ProcessIdentity
from engineshed.runtime import write_private

FRONT: Final = (sys.executable, "-m", "engineshed.replica")
"""The program of a replica's front."""
AGENT_LOG: Final = "agent.log"
BUILD_LOG: Final = "build.log"
FRONT_LOG: Final = "front.log"
TRITON_LOG: Final = "triton.log"

_RECORD: Final = "record.json"
_SPEC: Final = "spec.json"
_STATUS: Final = "status.json"
# Settings of ours that a replica may see; all others stay out of it: some are credentials. Its
# front is part of the agent to others: it shows the agent's certificate. What the agent reaches the
# store of engines with is the agent's alone, too.
_KEPT_BACK: Final = ("ENGINESHED_", "FSSPEC_", "AWS_")
_PASSED_ON: Final = (
    "ENGINESHED_TORCH_",
    "ENGINESHED_TRITON_",
    "ENGINESHED_STATE_DIR",
    "ENGINESHED_TLS_",
)

log = structlog.get_logger()


class FrontNotStartedError(Exception):
    """A front ended at once, before anybody could say which process it was."""


@dataclass(frozen=True, slots=True)
class ReplicaRecord:
    """The content of record.json. It holds no secret."""

    replica_id: str
    endpoint_id: str
    org_id: str
    state: Replica.State.ValueType
    """The state last reported."""
    since: float
    """When it came into that state, in seconds since the host's boot."""
    boot_id: str
    """The boot that `since` counts from."""
    gpus: tuple[int, ...] = ()
    """The indexes of its GPUs on this node."""
    process: ProcessIdentity | None = None
    """Its front, once started."""
    triton: ProcessIdentity | None = None
    """Its front's Triton, once seen: by this it is found when the front is gone."""
    engine_digest: str = ""
    engine_backend: str = ""
    engine_kind: str = ""
    engine_memory_bytes: int = 0
    """What the engine was seen to take of each GPU, without its keys and values; 0: unknown."""
    draining_since: float | None = None
    """When it was first wanted to drain, in seconds since the host's boot."""
    intended: Outcome | None = None
    """What the agent has in mind while it ends the front; then that is how the replica ended."""
    outcome: Outcome | None = None
    """How it ended."""


_ADAPTER: Final = TypeAdapter(ReplicaRecord)


class ReplicaDirectory:
    """The folder of one replica."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def replica_id(self) -> str:
        """The replica."""
        return self.path.name

    @property
    def models(self) -> Path:
        """Triton's model repository."""
        return self.path / "models"

    def remove(self) -> None:
        """Remove the folder with everything in it."""
        shutil.rmtree(self.path)

    def record(self) -> ReplicaRecord | None:
        """Return the record; None when the agent died before it wrote one: nothing was started."""
        try:
            return _ADAPTER.validate_json((self.path / _RECORD).read_bytes())
        except FileNotFoundError:
            return None

    def write(self, record: ReplicaRecord) -> None:
        """Put the record into the folder, made if need be; it is on disk when this returns."""
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_private(self.path / _RECORD, _ADAPTER.dump_json(record))

    def log(self, line: str) -> None:
        """Add to the replica's log what its agent has to say."""
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (self.path / AGENT_LOG).open("a") as file:
            file.write(f"{line}\n")

    def spec(self) -> ReplicaSpec | None:
        """Return what the front is started with; None before that."""
        try:
            return json_format.Parse((self.path / _SPEC).read_bytes(), ReplicaSpec())
        except FileNotFoundError:
            return None

    def write_spec(self, spec: ReplicaSpec) -> None:
        """Write what the front is started with."""
        write_private(self.path / _SPEC, json_format.MessageToJson(spec).encode())

    def front_state(self) -> ReplicaState | None:
        """Return what the front last said of itself; None before it said anything."""
        try:
            text = (self.path / _STATUS).read_bytes()
            return json_format.Parse(text, ReplicaState(), ignore_unknown_fields=True)
        except FileNotFoundError:
            return None
        except json_format.ParseError as error:  # a bug of the front's, and no reason to fall
            log.error("status_unreadable", replica_id=self.replica_id, error=str(error))
            return None

    def make_models(self) -> Path:
        """Return the model repository, empty."""
        shutil.rmtree(self.models, ignore_errors=True)
        self.models.mkdir(mode=0o700)
        return self.models

    def start_front(
        self, program: Sequence[str], visible_gpus: Sequence[str]
    ) -> tuple[ProcessIdentity, subprocess.Popen[bytes]]:
        """Start the front in a session of its own, so that it outlives this process.

        Args:
            program: the front's command line, but for the folder.
            visible_gpus: the UUIDs of the real GPUs that it may use.

        Raises:
            FrontNotStartedError: it ended at once.
            OSError: it could not be started.

        """
        argv = [*program, *self._arguments()]
        with (self.path / FRONT_LOG).open("ab") as output:
            child = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self.path,
                env=_environment(visible_gpus),
                start_new_session=True,
            )
        try:
            return processes.identify(child.pid), child
        except processes.ProcessGoneError as error:
            raise FrontNotStartedError(f"the front ended at once: {exit_of(child)}") from error

    def find_front(self) -> ProcessIdentity | None:
        """Return the front that runs for this folder, though the record does not name it.

        So it is when the agent was killed between starting it and writing that down.
        """
        if not (self.path / _SPEC).exists():
            return None
        found = processes.find_by_argument(*self._arguments())
        if found:
            return min(found, key=lambda process: process.start_ticks)
        state = self.front_state()
        if state is None:
            return None
        return ProcessIdentity(state.pid, state.process_start, state.boot_id)  # it has ended

    def _arguments(self) -> tuple[str, ...]:
        return ("--directory", str(self.path))


def existing(root: Path) -> Iterator[tuple[ReplicaDirectory, ReplicaRecord]]:
    """Yield the replicas whose folders are below `root`; removes what is none."""
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    for path in sorted(root.iterdir()):
        directory = ReplicaDirectory(path)
        if not ids.is_id(path.name, ids.REPLICA):
            continue  # somebody else's; not ours to touch
        record = _record_or_none(directory)
        if record is None:
            directory.remove()
        else:
            yield directory, record


def exit_of(child: subprocess.Popen[bytes]) -> str:
    """Return how a child ended, in words; empty while it runs. Reaps it."""
    status = child.poll()
    if status is None:
        return ""
    return f"killed by signal {-status}" if status < 0 else f"exit status {status}"


def _record_or_none(directory: ReplicaDirectory) -> ReplicaRecord | None:
    try:
        return directory.record()
    except ValidationError as error:
        raise ValueError(
            f"{directory.path / _RECORD} cannot be read: end the replica's processes, if any, and "
            "remove its folder"
        ) from error


def _environment(visible_gpus: Sequence[str]) -> dict[str, str]:
    passed_on = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(_KEPT_BACK) or name.startswith(_PASSED_ON)
    }
    return passed_on | {"CUDA_VISIBLE_DEVICES": ",".join(visible_gpus)}
