"""`python -m engineshed.catalog`: reads the settings, wires the parts, serves."""

import asyncio
from typing import Final

import grpc
import structlog

from engineshed.api.catalog.v1.checkpoint_service_pb2_grpc import (
    add_CheckpointServiceServicer_to_server,
)
from engineshed.api.catalog.v1.hold_service_pb2_grpc import add_HoldServiceServicer_to_server
from engineshed.api.catalog.v1.organization_service_pb2_grpc import (
    add_OrganizationServiceServicer_to_server,
)
from engineshed.api.catalog.v1.template_service_pb2 import Template
from engineshed.api.catalog.v1.template_service_pb2_grpc import (
    add_TemplateServiceServicer_to_server,
)
from engineshed.api.catalog.v1.token_service_pb2_grpc import add_TokenServiceServicer_to_server
from engineshed.api.events.v1.event_service_pb2_grpc import add_EventServiceServicer_to_server
from engineshed.auth import ServiceTokens
from engineshed.bus import Bus, EventPublisher, ensure_streams
from engineshed.catalog import bootstrap
from engineshed.catalog.access import ACCESS
from engineshed.catalog.artifacts import ArtifactStore
from engineshed.catalog.authentication import StoreAuthenticator
from engineshed.catalog.checkpoint_service import CheckpointServicer
from engineshed.catalog.domain.errors import CheckpointInvalidError
from engineshed.catalog.grants import GrantPublisher
from engineshed.catalog.hold_service import HoldServicer
from engineshed.catalog.organization_service import OrganizationServicer
from engineshed.catalog.reclaim import OrphanHolds, Reclaimer
from engineshed.catalog.registration import Registrar
from engineshed.catalog.settings import CatalogSettings
from engineshed.catalog.sources import Sources
from engineshed.catalog.store import SERVICE, CatalogStore
from engineshed.catalog.template_file import read_templates
from engineshed.catalog.template_service import TemplateServicer
from engineshed.catalog.templates import Templates, sample_template
from engineshed.catalog.token_service import TokenServicer
from engineshed.eventstore import Relay
from engineshed.eventstore.servicer import EventServicer
from engineshed.rpc import LEADER, RpcServer, open_channel
from engineshed.runtime import configure_logging, run, supervise, unless
from engineshed.telemetry import Exposition, serve_metrics
from engineshed.telemetry.tracing import configure_tracing

_GRACE_S: Final = 3.0  # for calls in flight when the catalog ends

log: Final[structlog.stdlib.BoundLogger] = structlog.get_logger()


async def main(stop: asyncio.Event) -> None:
    """Serve until `stop` is set."""
    settings = CatalogSettings()
    configure_logging(SERVICE, settings.log_level)
    configure_tracing(SERVICE)
    store = await unless(stop, CatalogStore.open(settings.store_url(SERVICE)))
    if store is None:
        return
    bus = await Bus.connect(
        settings.nats_url,
        name=SERVICE,
        replicas=settings.nats_replicas,
        tls=settings.tls_to("nats"),
    )
    bus.on_connect(lambda: ensure_streams(bus))
    scheduler = open_channel(
        settings.scheduler_address,
        settings.service_token(),
        SERVICE,
        healthy=LEADER,
        tls=settings.tls_to("scheduler"),
    )
    try:
        await _serve(settings, store, bus, scheduler, stop)
    finally:
        await scheduler.close()
        await bus.close()
        await store.events.close()


async def _serve(
    settings: CatalogSettings,
    store: CatalogStore,
    bus: Bus,
    scheduler: grpc.aio.Channel,
    stop: asyncio.Event,
) -> None:
    sources = Sources(settings)
    artifacts = ArtifactStore(settings.artifacts)
    await asyncio.to_thread(artifacts.prepare)
    org_id = await bootstrap.ensure_organization(store, settings.default_organization)
    if settings.bootstrap_token_file is not None:
        await bootstrap.ensure_token(store, settings.bootstrap_token_file, org_id)
    own = await asyncio.to_thread(read_templates, settings.templates) if settings.templates else []
    templates = Templates(*own, *await _sample(store, sources))

    registrar = Registrar(store, artifacts, sources.open_recorded)
    grants = GrantPublisher(store, bus)
    orphans = OrphanHolds(
        store,
        scheduler,
        age_s=settings.orphan_hold_age_s,
        interval_s=settings.orphan_check_interval_s,
    )
    services = ServiceTokens.load(settings.services_file)
    authenticator = StoreAuthenticator(services, store)
    server = RpcServer(settings.listen, authenticator, ACCESS, tls=settings.tls)
    server.add(add_OrganizationServiceServicer_to_server, OrganizationServicer(store))
    server.add(add_TokenServiceServicer_to_server, TokenServicer(store))
    checkpoints = CheckpointServicer(store, registrar, sources.open)
    server.add(add_CheckpointServiceServicer_to_server, checkpoints)
    server.add(add_HoldServiceServicer_to_server, HoldServicer(store, templates))
    server.add(add_TemplateServiceServicer_to_server, TemplateServicer(templates))
    server.add(add_EventServiceServicer_to_server, EventServicer(store.events))
    relay = Relay(store.events, EventPublisher(bus, SERVICE))
    exposition = Exposition(
        SERVICE, server.metrics, store.events.metrics, relay.metrics, bus.metrics
    )
    log.info("ready", address=await server.start())
    try:
        async with serve_metrics(settings, exposition):
            await supervise(
                stop,
                {
                    "relay": relay.run(),
                    "grants rewritten": grants.rewrite(),
                    "grants followed": grants.follow(),
                    "registration": registrar.run(),
                    "reclaim": Reclaimer(store, artifacts, registrar).run(),
                    "orphan holds": orphans.run(),
                },
            )
    finally:
        await server.stop(_GRACE_S)


async def _sample(store: CatalogStore, sources: Sources) -> list[Template]:
    try:
        checkpoint_id = await bootstrap.ensure_sample(store, sources.open_sample)
    except CheckpointInvalidError as error:
        log.warning("no sample model in this installation", error=error.message)
        return []
    return [sample_template(checkpoint_id)]


if __name__ == "__main__":
    run(main)
