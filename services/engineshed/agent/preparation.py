"""A replica's way from being placed to having an engine: fetch the checkpoint, build, render."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from google.protobuf import json_format
from pydantic import ValidationError

from engineshed import ids
from engineshed.agent.builds import Builds
from engineshed.agent.domain.life import Failure
from engineshed.agent.engines.cache import Engine
from engineshed.agent.engines.interface import (
    BuildRequest,
    EngineBackend,
    EngineBuildError,
    Runtime,
)
from engineshed.agent.fetch import ArtifactStore, CheckpointMismatchError
from engineshed.agent.inventory import Inventory
from engineshed.agent.replicas import BUILD_LOG, ReplicaDirectory
from engineshed.api.agent.v1.agent_service_pb2 import DesiredReplica
from engineshed.api.replica.v1.replica_service_pb2 import ReplicaSpec
from engineshed.api.scheduler.v1.endpoint_service_pb2 import Replica
from engineshed.errors import DomainError


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the preparation has come."""

    stage: Replica.State.ValueType
    """FETCHING or BUILDING."""
    fraction: float
    message: str


@dataclass(frozen=True, slots=True)
class Workshop:
    """What all replicas of this host are prepared with."""

    inventory: Inventory
    store: ArtifactStore
    builds: Builds
    backends: Mapping[str, EngineBackend]
    """Those that can run here, the preferred one first."""
    triton: Path
    """A folder for Triton's own files."""
    replica_host: str
    """The address that fronts bind."""
    log_level: str

    async def prepare(
        self,
        desired: DesiredReplica,
        directory: ReplicaDirectory,
        tell: Callable[[Progress], None],
    ) -> Engine:
        """Return the engine for a replica, with everything in its folder that its front needs.

        Raises:
            EngineBuildError: the engine cannot be had.
            DomainError: the checkpoint cannot be had.
            OSError: the host's disk, most likely.

        """
        tell(Progress(Replica.STATE_FETCHING, 0.0, "looking for the checkpoint"))
        location, digest = desired.checkpoint_location, desired.checkpoint_digest
        checkpoint = await self.store.checkpoint(location, digest)
        serving = desired.serving
        request = BuildRequest(
            checkpoint=checkpoint,
            hardware=self.inventory.hardware(len(desired.gpus)),
            max_context=serving.max_context or None,
            precision=serving.precision or None,
            quantization=serving.quantization or None,
            max_concurrent=serving.max_batch_size or None,
            max_batch_tokens=serving.max_batch_tokens or None,
            gpus=self.inventory.visible(desired.gpus),
        )

        def progress(stage: str, fraction: float, building: bool) -> None:
            state = Replica.STATE_BUILDING if building else Replica.STATE_FETCHING
            tell(Progress(state, fraction, stage))

        backend = await asyncio.to_thread(self._backend, request)
        build_log = directory.path / BUILD_LOG
        async with self.builds.engine(backend, request, progress, build_log) as engine:
            await asyncio.to_thread(self._equip, desired, directory, backend, engine)
        return engine

    async def condemn(self, directory: ReplicaDirectory) -> None:
        """Remove the engine of a replica that could not load it.

        Raises:
            OSError: it could not be removed.

        """
        if spec := directory.spec():
            await self.builds.condemn(Path(spec.engine_directory).name)

    def _backend(self, request: BuildRequest) -> EngineBackend:
        """Return the first back end that serves such a model on such hardware."""
        declined = []
        for name, backend in self.backends.items():
            if not (reason := backend.declines(request)):
                return backend
            declined.append(f"{name}: {reason}")
        reason = "; ".join(declined) or "its agent's log says what each one misses"
        raise EngineBuildError(
            "NO_BACKEND",
            f"no engine back end of this node can serve it: {reason}",
            retryable=True,
        )

    def _equip(
        self,
        desired: DesiredReplica,
        directory: ReplicaDirectory,
        backend: EngineBackend,
        engine: Engine,
    ) -> None:
        models = directory.make_models()
        fraction = desired.serving.kv_cache_fraction or None
        backend.render(engine.directory, models, Runtime(tuple(desired.gpus), fraction))
        directory.write_spec(
            ReplicaSpec(
                replica_id=desired.replica_id,
                endpoint_id=desired.endpoint_id,
                org_id=desired.org_id,
                routing_key=desired.routing_key,
                secret=desired.secret,
                model_repository=str(models),
                engine_directory=str(engine.directory),
                listen_host=self.replica_host,
                log_level=self.log_level,
                triton_directory=str(self.triton),
                threads=self.inventory.threads(len(desired.gpus)),
            )
        )


def engines_in_use(replicas: Path) -> frozenset[str]:
    """Return the keys of the engines of the replicas below `replicas` that have not ended. Blocks.

    It is read from their folders, so it is true from an agent's first moment.

    Raises:
        OSError: a folder cannot be read.

    """
    keys = set()
    for path in replicas.glob(f"{ids.REPLICA}_*"):
        directory = ReplicaDirectory(path)
        try:
            record, spec = directory.record(), directory.spec()
        except (ValidationError, json_format.ParseError) as error:
            raise OSError(f"{path} does not say what its replica runs: {error}") from error
        ended = record is not None and record.outcome is not None
        if spec is not None and not ended:
            keys.add(Path(spec.engine_directory).name)
    return frozenset(keys)


def failure_of(error: Exception) -> Failure | None:
    """Return what the scheduler is told of a preparation that raised; None: it is a bug."""
    match error:
        case EngineBuildError():
            return Failure(error.code, error.message, error.retryable, error.evidence)
        case DomainError():
            retryable = not isinstance(error, CheckpointMismatchError)
            return Failure(error.reason, error.message, retryable)
        case OSError():
            return Failure("NODE_FAILURE", f"the node cannot prepare it: {error}", retryable=True)
        case _:
            return None
