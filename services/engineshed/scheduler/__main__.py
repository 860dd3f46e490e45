"""`python -m engineshed.scheduler`: reads the settings, wires the parts, serves."""

import asyncio
import gc
from typing import Final

import grpc
import structlog

from engineshed.api.agent.v1.agent_service_pb2_grpc import add_AgentServiceServicer_to_server
from engineshed.api.events.v1.event_service_pb2_grpc import add_EventServiceServicer_to_server
from engineshed.api.scheduler.v1.endpoint_service_pb2_grpc import (
    add_EndpointServiceServicer_to_server,
)
from engineshed.api.scheduler.v1.node_service_pb2_grpc import add_NodeServiceServicer_to_server
from engineshed.api.scheduler.v1.scheduling_service_pb2_grpc import (
    add_SchedulingServiceServicer_to_server,
)
from engineshed.auth import ServiceTokens, TokenDirectory
from engineshed.bus import TOKENS, Bus, EventPublisher, KeyValueWatcher, ensure_streams
from engineshed.eventstore import EventStore, Relay
from engineshed.eventstore.servicer import EventServicer
from engineshed.rpc import RpcServer, open_channel
from engineshed.runtime import configure_logging, run, supervise, unless
from engineshed.scheduler.access import ACCESS
from engineshed.scheduler.agent_service import AgentServicer
from engineshed.scheduler.agents import Agents
from engineshed.scheduler.catalog_client import Catalog
from engineshed.scheduler.checkpoints import AwaitedCheckpoints
from engineshed.scheduler.creation import Creation
from engineshed.scheduler.domain.disclosure import event_for_owner
from engineshed.scheduler.domain.score import Policy
from engineshed.scheduler.election import candidate, elect
from engineshed.scheduler.endpoint_service import EndpointServicer
from engineshed.scheduler.endpoints import Endpoints
from engineshed.scheduler.estimates import Estimates
from engineshed.scheduler.heard_times import HeardTimes
from engineshed.scheduler.holds import Holds
from engineshed.scheduler.journal import Journal
from engineshed.scheduler.loads import Loads
from engineshed.scheduler.metrics import FleetMetrics, LeaderMetrics
from engineshed.scheduler.node_service import NodeServicer
from engineshed.scheduler.nodes import Nodes
from engineshed.scheduler.observations import Observations
from engineshed.scheduler.plan_log import PlanLog
from engineshed.scheduler.plan_retention import PlanRetention
from engineshed.scheduler.purge import Purge
from engineshed.scheduler.reconciler import Reconciler
from engineshed.scheduler.replica_secrets import ReplicaSecrets
from engineshed.scheduler.routes import Routes
from engineshed.scheduler.scheduling_service import SchedulingServicer
from engineshed.scheduler.settings import SchedulerSettings
from engineshed.scheduler.store import SERVICE, heard_times, open_store
from engineshed.scheduler.updates import Updates
from engineshed.telemetry import Exposition, serve_metrics
from engineshed.telemetry.tracing import configure_tracing

_GRACE_S: Final = 1.0  # for calls in flight when the scheduler ends

log: Final[structlog.stdlib.BoundLogger] = structlog.get_logger()


async def main(stop: asyncio.Event) -> None:
    """Serve until `stop` is set."""
    settings = SchedulerSettings()
    configure_logging(SERVICE, settings.log_level)
    configure_tracing(SERVICE)
    secrets = ReplicaSecrets.load(settings.replica_key_file)
    store = await unless(stop, open_store(settings.store_url(SERVICE)))
    if store is None:
        return
    bus = await Bus.connect(
        settings.nats_url,
        name=SERVICE,
        replicas=settings.nats_replicas,
        tls=settings.tls_to("nats"),
    )
    bus.on_connect(lambda: ensure_streams(bus, settings.log_retention))
    channel = open_channel(
        settings.catalog_address,
        settings.service_token(),
        SERVICE,
        tls=settings.tls_to("catalog"),
    )
    try:
        await _serve(settings, secrets, store, bus, channel, stop)
    finally:
        await channel.close()
        await bus.close()
        await store.close()


async def _serve(
    settings: SchedulerSettings,
    secrets: ReplicaSecrets,
    store: EventStore,
    bus: Bus,
    channel: grpc.aio.Channel,
    stop: asyncio.Event,
) -> None:
    """Stand by, and lead once this process is elected."""
    leadership = candidate(store, settings.listen, settings.leader_lease_s)
    catalog = Catalog(channel)
    tokens = KeyValueWatcher(bus, TOKENS)
    authenticator = TokenDirectory(
        ServiceTokens.load(settings.services_file), tokens.entries, catalog.introspect
    )
    server = RpcServer(settings.listen, authenticator, ACCESS, leadership.refusal, tls=settings.tls)
    exposition = Exposition(
        SERVICE, LeaderMetrics(leadership), server.metrics, store.metrics, bus.metrics
    )

    async def take_part() -> None:
        await elect(leadership)
        term = leadership.term
        leading = _lead(settings, secrets, term, store, bus, catalog, server, exposition, stop)
        await supervise(stop, {"leadership": leadership.keep(), "leading": leading})

    log.info("listening", address=await server.start(standby=True))
    try:
        async with serve_metrics(settings, exposition):
            await supervise(stop, {"tokens": tokens.run(), "scheduler": take_part()})
    finally:
        await server.stop(_GRACE_S)
        await leadership.give_up()


async def _lead(
    settings: SchedulerSettings,
    secrets: ReplicaSecrets,
    term: int,
    store: EventStore,
    bus: Bus,
    catalog: Catalog,
    server: RpcServer,
    exposition: Exposition,
    stop: asyncio.Event,
) -> None:
    journal = await Journal.open(store, term)
    # What is there now stays: looking through it again and again would hold everything up.
    gc.freeze()
    log.info("elected", term=journal.term, endpoints=len(journal.view.endpoints))
    agents = await _expected_agents(journal)
    endpoints, nodes = Endpoints(journal), Nodes(journal)
    routes = Routes(bus, journal, secrets.of)
    policy = Policy(target=settings.scale_target)
    loads = Loads(journal.view, settings.windows)
    plans = PlanLog(journal, policy)
    reconciler = Reconciler(
        journal,
        endpoints,
        nodes,
        agents,
        routes,
        loads,
        plans,
        secrets.of,
        policy=policy,
        lease_s=settings.lease_s,
        drain_timeout=settings.drain_timeout,
    )
    awaited = AwaitedCheckpoints(
        journal, endpoints, catalog, bus, poll_s=settings.checkpoint_poll_s
    )
    creation = Creation(
        journal, endpoints, catalog, plans, most_gpus=settings.most_gpus, policy=policy
    )
    holds = Holds(journal, catalog)
    updates = Updates(journal, catalog, holds, most_gpus=settings.most_gpus)
    estimates = Estimates(journal, catalog, most_gpus=settings.most_gpus)
    purge = Purge(journal, endpoints, settings.purge_stopped_after)
    server.add(
        add_EndpointServiceServicer_to_server,
        EndpointServicer(journal, endpoints, creation, updates, estimates, agents, purge),
    )
    server.add(add_NodeServiceServicer_to_server, NodeServicer(journal.view, nodes, agents))
    server.add(
        add_SchedulingServiceServicer_to_server,
        SchedulingServicer(journal, endpoints, agents, loads, policy),
    )
    observations = Observations(journal, agents, endpoints, nodes, loads)
    server.add(add_AgentServiceServicer_to_server, AgentServicer(journal, agents, observations))
    server.add(add_EventServiceServicer_to_server, EventServicer(store, event_for_owner))
    heard = HeardTimes(journal, agents)
    relay = Relay(store, EventPublisher(bus, SERVICE))
    exposition.add(FleetMetrics(journal.view, agents), reconciler.metrics, relay.metrics)
    await server.take_over()
    log.info("ready", term=journal.term)
    try:
        await supervise(
            stop,
            {
                "journal": journal.watch(),
                "leases": agents.watch(),
                "reconciler": reconciler.run(),
                "relay": relay.run(),
                "routes": routes.run(),
                "awaited checkpoints": awaited.poll(),
                "checkpoint events": awaited.listen(),
                "holds": holds.run(),
                "heard times": heard.run(),
                "purge": purge.run(),
                "old plans": PlanRetention(store, settings.plans_kept_for).run(),
            },
        )
    finally:
        await heard.note()
        agents.end_all()


async def _expected_agents(journal: Journal) -> Agents:
    """Give every heard node a fresh lease: the leader before us may have been away for long."""
    agents = Agents(journal.term)
    heard = await heard_times(journal.store)
    for node_id, node in journal.view.nodes.items():
        if node.heard:
            # Whoever joined just before a leader was killed may not have been noted yet.
            agents.expect(node_id, heard.get(node_id, node.joined_at))
    return agents


if __name__ == "__main__":
    run(main)
