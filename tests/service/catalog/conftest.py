"""A real catalog: a process of its own with its store and its broker, called over gRPC."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from tests import metrics
from tests.ports import a_free_port

from engineshed.api.catalog.v1.checkpoint_service_pb2 import (
    Checkpoint,
    CreateCheckpointRequest,
    GetCheckpointRequest,
)
from engineshed.api.catalog.v1.checkpoint_service_pb2_grpc import CheckpointServiceStub
from engineshed.api.catalog.v1.hold_service_pb2_grpc import HoldServiceStub
from engineshed.api.catalog.v1.organization_service_pb2 import CreateOrganizationRequest
from engineshed.api.catalog.v1.organization_service_pb2_grpc import OrganizationServiceStub
from engineshed.api.catalog.v1.template_service_pb2_grpc import TemplateServiceStub
from engineshed.api.catalog.v1.token_service_pb2 import CreateTokenRequest
from engineshed.api.catalog.v1.token_service_pb2_grpc import TokenServiceStub
from engineshed.api.events.v1.event_service_pb2_grpc import EventServiceStub
from engineshed.auth import hash_token
from engineshed.bus.embedded import command, write_config
from engineshed.rpc import RemoteError, error_from, open_channel

from .models import write_model

DEADLINE = 20.0
SERVICES = ("catalog", "scheduler", "agent", "gateway", "ledger")


async def eventually(condition: Callable[[], Any]) -> Any:
    """Return what `condition` answers once that is true; it may be a coroutine function."""
    async with asyncio.timeout(DEADLINE):
        while True:
            answer = condition()
            if isinstance(answer, Awaitable):
                answer = await answer
            if answer:
                return answer
            await asyncio.sleep(0.01)


@contextmanager
def refused(reason: str) -> Iterator[list[RemoteError]]:
    """Expect a call to be refused for `reason`; the error is in the list afterwards."""
    errors: list[RemoteError] = []
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        yield errors
    error = error_from(raised.value)
    assert error is not None, raised.value
    assert error.reason == reason, error.message
    errors.append(error)


class Catalog:
    """A catalog process and its broker, in one state directory."""

    def __init__(self, directory: Path, **settings: str) -> None:
        self.state_dir = directory / "state"
        self.imports = directory / "imports"  # the import root
        credentials = self.state_dir / "credentials"
        for folder in (credentials, self.imports):
            folder.mkdir(parents=True)
        hashes = {name: hash_token(service_token(name)) for name in SERVICES}
        (credentials / "services.json").write_text(json.dumps(hashes))
        (credentials / "catalog.token").write_text(service_token("catalog"))
        broker_port = a_free_port()
        self.nats = write_config(self.state_dir, broker_port).urls
        self.address = f"127.0.0.1:{a_free_port()}"
        self.settings = {
            "ENGINESHED_STATE_DIR": str(self.state_dir),
            "ENGINESHED_LISTEN": self.address,
            "ENGINESHED_NATS_URL": self.nats["catalog"],
            "ENGINESHED_SERVICE_TOKEN_FILE": str(credentials / "catalog.token"),
            "ENGINESHED_SERVICES_FILE": str(credentials / "services.json"),
            "ENGINESHED_BOOTSTRAP_TOKEN_FILE": str(self.state_dir / "admin.token"),
            "ENGINESHED_IMPORT_ROOTS": str(self.imports),
            **settings,
        }
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def admin(self) -> str:
        """The token of the operator."""
        return (self.state_dir / "admin.token").read_text().strip()

    @property
    def artifacts(self) -> Path:
        return self.state_dir / "artifacts" / "checkpoints"

    @property
    def log(self) -> str:
        return (self.state_dir / "catalog.log").read_text()

    def start_broker(self) -> None:
        self._start("broker", command(self.state_dir))

    def start(self) -> None:
        """Start the catalog, and wait until it serves."""
        self.launch()
        self.wait_ready()

    def launch(self) -> None:
        self._start("catalog", [sys.executable, "-m", "engineshed.catalog"])

    def wait_ready(self) -> None:
        deadline = time.monotonic() + DEADLINE
        while not _listens(self.address):
            assert self._processes["catalog"].poll() is None, self.log
            assert time.monotonic() < deadline, self.log
            time.sleep(0.02)

    def kill(self, name: str = "catalog", number: int = signal.SIGKILL) -> int:
        """End a process and return its exit status."""
        process = self._processes.pop(name)
        process.send_signal(number)
        return process.wait(DEADLINE)

    def end(self) -> None:
        for name in list(self._processes):
            self.kill(name)

    def _start(self, name: str, program: Any) -> None:
        with (self.state_dir / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                program, stdout=log, stderr=log, env={**os.environ, **self.settings}
            )


class Caller:
    """All services of the catalog, in the name of one token."""

    def __init__(self, catalog: Catalog, secret: str) -> None:
        self.channel = open_channel(catalog.address, secret, "test")
        self.secret = secret
        # The stubs are typed for blocking channels.
        self.organizations: Any = OrganizationServiceStub(self.channel)
        self.tokens: Any = TokenServiceStub(self.channel)
        self.checkpoints: Any = CheckpointServiceStub(self.channel)
        self.holds: Any = HoldServiceStub(self.channel)
        self.templates: Any = TemplateServiceStub(self.channel)
        self.events: Any = EventServiceStub(self.channel)

    async def register(self, directory: Path, **fields: Any) -> Checkpoint:
        """Begin to register a directory."""
        request = CreateCheckpointRequest(
            **{"name": directory.name, "uri": directory.as_uri(), **fields}
        )
        record: Checkpoint = (await self.checkpoints.CreateCheckpoint(request)).checkpoint
        return record

    async def get(self, checkpoint_id: str, **fields: Any) -> Checkpoint:
        request = GetCheckpointRequest(checkpoint_id=checkpoint_id, **fields)
        record: Checkpoint = (await self.checkpoints.GetCheckpoint(request)).checkpoint
        return record

    async def settled(self, checkpoint_id: str) -> Checkpoint:
        """Return the checkpoint once its registration has ended."""

        async def ended() -> Checkpoint | None:
            record = await self.get(checkpoint_id, show_deleted=True)
            return None if record.state == Checkpoint.STATE_REGISTERING else record

        record: Checkpoint = await eventually(ended)
        return record

    async def new_token(self, *scopes: str, **fields: Any) -> str:
        request = CreateTokenRequest(name="test", scopes=scopes, **fields)
        secret: str = (await self.tokens.CreateToken(request)).secret
        return secret


def service_token(name: str) -> str:
    return f"svc_{name}_test"


@pytest.fixture(scope="session")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Catalog]:
    """The catalog that tests share; each of them has an organization of its own."""
    directory = tmp_path_factory.mktemp("catalog")
    shared = Catalog(directory, **metrics.listening(directory))
    shared.start_broker()
    shared.start()
    yield shared
    shared.end()


@pytest.fixture
def own_catalog(
    tmp_path: Path, database_settings: dict[str, str]
) -> Iterator[Callable[..., Catalog]]:
    """Make a catalog that the test may kill; it is not started."""
    made: list[Catalog] = []

    def make(**settings: str) -> Catalog:
        made.append(Catalog(tmp_path / str(len(made)), **database_settings, **settings))
        return made[-1]

    yield make
    for each in made:
        each.end()


@pytest.fixture
async def call() -> AsyncIterator[Callable[[Catalog, str], Caller]]:
    """Make callers with a token; their connections end with the test."""
    callers: list[Caller] = []

    def make(catalog: Catalog, secret: str) -> Caller:
        callers.append(Caller(catalog, secret))
        return callers[-1]

    yield make
    for caller in callers:
        await caller.channel.close()


@pytest.fixture
def operator(catalog: Catalog, call: Callable[[Catalog, str], Caller]) -> Caller:
    return call(catalog, catalog.admin)


@pytest.fixture
def scheduler(catalog: Catalog, call: Callable[[Catalog, str], Caller]) -> Caller:
    return call(catalog, service_token("scheduler"))


@pytest.fixture
async def new_admin(
    operator: Caller, catalog: Catalog, call: Callable[[Catalog, str], Caller]
) -> Callable[[], Awaitable[Caller]]:
    """Make the admin of a new organization."""

    async def make() -> Caller:
        request = CreateOrganizationRequest(slug=f"t-{os.urandom(8).hex()}")
        organization = (await operator.organizations.CreateOrganization(request)).organization
        return call(catalog, await operator.new_token("admin", org_id=organization.org_id))

    return make


@pytest.fixture
async def admin(new_admin: Callable[[], Awaitable[Caller]]) -> Caller:
    return await new_admin()


@pytest.fixture
async def stranger(new_admin: Callable[[], Awaitable[Caller]]) -> Caller:
    return await new_admin()


@pytest.fixture
def model(catalog: Catalog) -> Callable[..., Path]:
    """Write a small checkpoint below the import root of the shared catalog."""

    def make(**changes: Any) -> Path:
        return write_model(catalog.imports / os.urandom(8).hex(), **changes)

    return make


def _listens(address: str) -> bool:
    host, _, port = address.rpartition(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == 0
