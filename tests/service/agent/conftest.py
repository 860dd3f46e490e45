"""An agent as a real process, with a scripted scheduler, a real broker and real replicas."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import pytest
from google.protobuf import json_format
from google.protobuf.duration_pb2 import Duration
from tests.service.bus.conftest import Broker

from engineshed import ids, processes
from engineshed.api.agent.v1.agent_service_pb2 import DesiredReplica, ReplicaStatus
from engineshed.api.replica.v1.replica_service_pb2 import ReplicaSpec, ReplicaState
from engineshed.api.scheduler.v1.endpoint_service_pb2 import Replica
from engineshed.bus import Bus, ensure_streams
from engineshed.processes import ProcessIdentity

from .scripted_scheduler import ScriptedScheduler

DEADLINE = 60.0
TOKEN = "svc_agent_of-the-tests"
PROGRAM = Path(__file__).with_name("agent_program.py")
ENDED = (Replica.STATE_STOPPED, Replica.STATE_FAILED)


async def eventually(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(DEADLINE):
        while not condition():
            await asyncio.sleep(0.01)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint in the artifact store."""

    folder: Path
    location: str
    digest: str

    def builds(self) -> int:
        """How many engines were built from it."""
        file = self.folder / "builds"
        return len(file.read_text().splitlines()) if file.exists() else 0


class Host:
    """One machine: its agent, its artifact store and what is on its disk."""

    def __init__(self, state_dir: Path, scheduler: ScriptedScheduler, nats_url: str) -> None:
        self.state_dir = state_dir
        self.scheduler = scheduler
        self.nats_url = nats_url
        self.agent: subprocess.Popen[bytes] | None = None
        self.log = state_dir / "agent.log"
        self._environment = {
            "ENGINESHED_STATE_DIR": str(state_dir),
            "ENGINESHED_NATS_URL": nats_url,
            "ENGINESHED_SERVICE_TOKEN_FILE": str(state_dir / "agent.token"),
            "ENGINESHED_SERVICES_FILE": str(state_dir / "services.json"),
            "ENGINESHED_ARTIFACT_STORE": (state_dir / "artifacts").as_uri(),
            "ENGINESHED_SLOTS": "4",
        }
        (state_dir / "agent.token").write_text(TOKEN + "\n")
        (state_dir / "artifacts").mkdir()

    def start_agent(self, *command: str, **settings: str) -> None:
        environment = {**os.environ, **self._environment, **settings}
        environment["ENGINESHED_SCHEDULER_ADDRESS"] = self.scheduler.address
        with self.log.open("ab") as log:
            self.agent = subprocess.Popen(
                command or (sys.executable, str(PROGRAM)), env=environment, stdout=log, stderr=log
            )

    def end_agent(self, number: signal.Signals = signal.SIGKILL) -> None:
        if self.agent is not None:
            self.agent.send_signal(number)
            self.agent.wait(DEADLINE)
            self.agent = None

    def said(self, event: str) -> list[dict[str, object]]:
        """Return what the agent logged under the name `event`."""
        lines = [json.loads(line) for line in self.log.read_text().splitlines() if line[:1] == "{"]
        return [line for line in lines if line.get("event") == event]

    def checkpoint(self, *, bad: bool = False, gate: bool = False) -> Checkpoint:
        folder = self.state_dir / "artifacts" / "checkpoints" / ids.new(ids.CHECKPOINT)
        folder.mkdir(parents=True)
        (folder / "weights").write_bytes(os.urandom(16))
        registered = self.register(folder)
        for name in [*(["bad"] if bad else []), *(["gate"] if gate else [])]:
            (folder / name).touch()
        return registered

    def register(self, folder: Path) -> Checkpoint:
        """Do what the catalog does with a folder in the artifact store."""
        lines = [
            {
                "path": path.name,
                "sha256": sha256(path.read_bytes()).hexdigest(),
                "size_bytes": path.stat().st_size,
            }
            for path in sorted(folder.iterdir())
        ]
        manifest = json.dumps(lines, separators=(",", ":")).encode()
        (folder / "manifest.json").write_bytes(manifest)
        location = str(folder.relative_to(self.state_dir / "artifacts"))
        return Checkpoint(folder, location, "sha256:" + sha256(manifest).hexdigest())

    def folder(self, replica: DesiredReplica) -> Path:
        return self.state_dir / "agent" / "replicas" / replica.replica_id

    def front(self, replica: DesiredReplica) -> ProcessIdentity:
        """Return the process of a replica's front."""
        (found,) = processes.find_by_argument("--directory", str(self.folder(replica)))
        return found

    def spec(self, replica: DesiredReplica) -> ReplicaSpec:
        return json_format.Parse((self.folder(replica) / "spec.json").read_bytes(), ReplicaSpec())

    def front_state(self, replica: DesiredReplica) -> ReplicaState:
        text = (self.folder(replica) / "status.json").read_bytes()
        return json_format.Parse(text, ReplicaState())

    async def until(
        self, replica: DesiredReplica, *states: Replica.State.ValueType
    ) -> ReplicaStatus:
        """Return the first report by a new look in which the replica is in one of `states`."""
        seen = len(self.scheduler.reports)
        await eventually(
            lambda: (
                len(self.scheduler.reports) > seen
                and (report := self.scheduler.report(replica.replica_id))
                and report.state in states
            )
        )
        found = self.scheduler.report(replica.replica_id)
        assert found is not None
        return found

    async def until_unreported(self, replica: DesiredReplica) -> None:
        """Return when a new report does not name the replica."""
        seen = len(self.scheduler.reports)
        await eventually(
            lambda: (
                len(self.scheduler.reports) > seen
                and self.scheduler.report(replica.replica_id) is None
            )
        )

    async def until_forgotten(self, replica: DesiredReplica) -> None:
        """Return when neither a report nor the disk has the replica."""
        await self.until_unreported(replica)
        await eventually(lambda: not self.folder(replica).exists())

    def end_everything(self) -> None:
        self.end_agent()
        replicas = self.state_dir / "agent" / "replicas"
        for folder in replicas.iterdir() if replicas.exists() else ():
            for process in processes.find_by_argument("--directory", str(folder)):
                for relative in processes.family(process):
                    processes.send_signal(relative, signal.SIGKILL)


def a_replica(
    checkpoint: Checkpoint,
    *,
    goal: DesiredReplica.Goal.ValueType = DesiredReplica.GOAL_RUN,
    behavior: str = "well",
    drain_seconds: int = 600,
    gpu: int = 0,
) -> DesiredReplica:
    return DesiredReplica(
        replica_id=ids.new(ids.REPLICA),
        endpoint_id=ids.new(ids.ENDPOINT),
        org_id=ids.new(ids.ORGANIZATION),
        goal=goal,
        gpus=[gpu],
        checkpoint_location=checkpoint.location,
        checkpoint_digest=checkpoint.digest,
        routing_key=behavior,
        secret="the-replicas-secret",
        drain_timeout=Duration(seconds=drain_seconds),
    )


def with_goal(
    replica: DesiredReplica, goal: DesiredReplica.Goal.ValueType, drain_seconds: int = 600
) -> DesiredReplica:
    changed = DesiredReplica()
    changed.CopyFrom(replica)
    changed.goal = goal
    changed.drain_timeout.seconds = drain_seconds
    return changed


async def make_streams(broker: Broker) -> None:
    """Do what the catalog or the scheduler does as soon as the broker is there."""
    bus = await Bus.connect(broker.urls["catalog"], name="catalog")
    async with asyncio.timeout(DEADLINE):
        await bus.wait_connected()
    await ensure_streams(bus)
    await bus.close()


@pytest.fixture
async def scheduler() -> AsyncIterator[ScriptedScheduler]:
    scheduler = ScriptedScheduler(TOKEN)
    await scheduler.start()
    yield scheduler
    await scheduler.stop()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    """Return a broker that is not started yet."""
    broker = Broker(tmp_path / "broker")
    yield broker
    broker.kill()


@pytest.fixture
def host(tmp_path: Path, scheduler: ScriptedScheduler, broker: Broker) -> Iterator[Host]:
    """Return a machine whose agent is not started yet."""
    (tmp_path / "host").mkdir()
    host = Host(tmp_path / "host", scheduler, broker.urls["agent"])
    yield host
    host.end_everything()
