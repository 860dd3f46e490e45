"""The agent, put together from its parts."""

import asyncio
import os
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Final

import structlog

from engineshed import processes
from engineshed.agent.builds import Builds
from engineshed.agent.claims import Claims
from engineshed.agent.connection import SchedulerConnection
from engineshed.agent.engines.interface import EngineBackend
from engineshed.agent.engines.known import known_backends
from engineshed.agent.engines.store import EngineStore
from engineshed.agent.fetch import ArtifactStore
from engineshed.agent.inventory import Inventory, take_inventory
from engineshed.agent.keeper import Means
from engineshed.agent.logs import LogShipper
from engineshed.agent.metrics import AgentMetrics, GpuMetrics
from engineshed.agent.node import NodeFile, sole_agent
from engineshed.agent.preparation import Workshop, engines_in_use
from engineshed.agent.reconciler import Reconciler
from engineshed.agent.replicas import FRONT
from engineshed.agent.settings import AgentSettings
from engineshed.api.agent.v1.agent_service_pb2 import Hello
from engineshed.bus import Bus
from engineshed.rpc import LEADER, open_channel
from engineshed.runtime import supervise
from engineshed.telemetry import Exposition, serve_metrics

TIDY_SECONDS: Final = 300.0

log = structlog.get_logger()


async def serve(
    settings: AgentSettings,
    stop: asyncio.Event,
    front: Sequence[str] = FRONT,
    backends: Mapping[str, EngineBackend] | None = None,
) -> None:
    """Run the agent until `stop` is set. Replicas go on running, builds end.

    Args:
        settings: what it was told.
        stop: ends it.
        front: the program of a replica's front.
        backends: the engine back ends; None: those of this release that can run here.

    Raises:
        AgentRunningError: another agent works in the same folder.

    """
    os.umask(0o077)  # everything below the state directory is its owner's alone
    inventory = take_inventory(settings)
    if backends is None:
        backends = await asyncio.to_thread(_available, _known(settings, inventory))
    versions = await asyncio.to_thread(_versions, backends.values())
    with sole_agent(settings.folder):
        node = NodeFile(settings.folder)
        replicas = settings.folder / "replicas"
        builds = Builds(
            settings.folder / "engines",
            settings.folder / "builds",
            settings.engine_limits,
            partial(engines_in_use, replicas),
            EngineStore(settings.engine_store) if settings.engine_store else None,
        )
        await asyncio.to_thread(builds.sweep)
        bus = await Bus.connect(settings.nats_url, name="agent", tls=settings.tls_to("nats"))
        logs = LogShipper(bus)
        means = Means(
            workshop=_workshop(settings, inventory, builds, backends),
            claims=Claims(),
            front=front,
            boot_id=processes.boot_id(),
            tls=settings.tls_to("agent"),
        )
        reconciler = Reconciler(replicas, means, node, logs)
        await reconciler.adopt()
        channel = open_channel(
            settings.scheduler_address,
            settings.service_token(),
            "agent",
            healthy=LEADER,
            tls=settings.tls_to("scheduler"),
        )
        hello = Hello(
            node_id=node.node_id,
            inventory=inventory.message(list(backends), versions),
            boot_id=means.boot_id,
        )
        connection = SchedulerConnection(channel, hello, reconciler)
        exposition = Exposition(
            "agent",
            AgentMetrics(settings.folder, reconciler, builds, connection),
            GpuMetrics(inventory.gpus),
            bus.metrics,
        )

        async def report() -> None:
            # The scheduler must not hear that a replica is gone that was merely not found yet.
            await reconciler.wait_settled()
            log.info("ready", node_id=node.node_id, gpus=inventory.gpu_count)
            await connection.run()

        try:
            loops = {
                "replicas": reconciler.run(),
                "scheduler": report(),
                "logs": logs.run(),
                "engines": _tidy(means.workshop),
            }
            if settings.engine_store:
                loops["engine store"] = builds.share()
            async with serve_metrics(settings, exposition):
                await supervise(stop, loops)
        finally:
            await channel.close()
            await bus.close()


async def _tidy(workshop: Workshop) -> None:
    """Give back the room of engines that are not needed or too many, until cancelled."""
    while True:
        try:
            await workshop.builds.drop_orphans(workshop.store.digests)
            await workshop.builds.make_room()
        except OSError as error:
            log.warning("engines_not_dropped", error=str(error), retry_seconds=TIDY_SECONDS)
        await asyncio.sleep(TIDY_SECONDS)


def _workshop(
    settings: AgentSettings,
    inventory: Inventory,
    builds: Builds,
    backends: Mapping[str, EngineBackend],
) -> Workshop:
    return Workshop(
        inventory=inventory,
        store=ArtifactStore(settings.artifact_root),
        builds=builds,
        backends=backends,
        triton=settings.folder / "triton",
        replica_host=settings.replica_host,
        log_level=settings.log_level,
    )


def _known(settings: AgentSettings, inventory: Inventory) -> Sequence[EngineBackend]:
    return known_backends(
        inventory.hardware(1),
        tensorrt_llm_dir=settings.tensorrt_llm_dir,
        calibration_dir=settings.calibration_dir,
        build_stall_s=settings.build_stall_s,
        remembered=settings.folder / "tensorrt_llm.json",
    )


def _versions(backends: Iterable[EngineBackend]) -> dict[str, str]:
    return {
        name: version for backend in backends for name, version in backend.fingerprint().items()
    }


def _available(backends: Sequence[EngineBackend]) -> dict[str, EngineBackend]:
    found = {}
    for backend in backends:
        probe = backend.probe()
        if probe.available:
            found[backend.name] = backend
        else:
            log.warning("backend_unavailable", backend=backend.name, reason=probe.reason)
    return found
