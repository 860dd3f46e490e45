"""Start the gateway: python -m engineshed.gateway."""

import asyncio
import gc
from pathlib import Path

from engineshed.auth import ServiceTokens, TokenDirectory
from engineshed.bus import TOKENS, Bus, KeyValueWatcher
from engineshed.gateway.app import Gateway
from engineshed.gateway.controlplane import control_plane
from engineshed.gateway.controlplane.clients import Services
from engineshed.gateway.dataplane import DataPlane
from engineshed.gateway.dataplane.admission import Admission
from engineshed.gateway.dataplane.balancer import Balancer
from engineshed.gateway.dataplane.connections import allow_many
from engineshed.gateway.dataplane.forward import Forwarder
from engineshed.gateway.dataplane.fronts import Fronts
from engineshed.gateway.dataplane.waking import Waking
from engineshed.gateway.metrics import GatewayMetrics
from engineshed.gateway.news import News
from engineshed.gateway.routes import Routes
from engineshed.gateway.server import serve_http
from engineshed.gateway.settings import Settings
from engineshed.gateway.tokens import FreshGrants, introspection
from engineshed.gateway.wake import wake_over
from engineshed.rpc import LEADER, open_channel
from engineshed.runtime import configure_logging, run, supervise
from engineshed.telemetry import Exposition
from engineshed.telemetry.tracing import configure_tracing


async def serve(stop: asyncio.Event) -> None:
    """Run the gateway until `stop` is set."""
    settings = Settings()  # from the environment
    configure_logging("gateway", settings.log_level)
    configure_tracing("gateway")
    allow_many()
    copies = settings.state_dir / "gateway"
    await asyncio.to_thread(_make_private, copies)
    bus = await Bus.connect(settings.nats_url, name="gateway", tls=settings.tls_to("nats"))
    metrics = GatewayMetrics()
    news = News()
    routes = Routes(bus, copies / "routes.json", gone=metrics.forget, news=news)
    tokens = KeyValueWatcher(
        bus, TOKENS, copy=copies / "tokens.json", on_change=lambda hashed, _: news.tell(hashed)
    )
    own_token = settings.service_token()
    fronts = Fronts(settings.tls.client_context() if settings.tls else None)
    async with (
        open_channel(
            settings.catalog_address, own_token, "gateway", tls=settings.tls_to("catalog")
        ) as catalog,
        open_channel(
            settings.scheduler_address,
            own_token,
            "gateway",
            healthy=LEADER,
            tls=settings.tls_to("scheduler"),
        ) as scheduler,
    ):
        directory = TokenDirectory(
            ServiceTokens.load(settings.services_file),
            FreshGrants(tokens, settings.token_staleness_seconds),
            introspection(catalog),
        )
        services = Services(catalog, scheduler, bus, directory, routes, fronts)
        admission, forwarder = Admission(directory), Forwarder(fronts, Balancer())
        waking = Waking(routes.entries, admission, forwarder, wake_over(scheduler), news, metrics)
        app = Gateway(
            DataPlane(routes.entries, admission, forwarder, waking, settings.regions, metrics),
            control_plane(
                services,
                settings.regions,
                metrics,
                Exposition("gateway", metrics, bus.metrics),
            ),
        )
        # What is there now stays: looking through it again and again would hold requests up.
        gc.freeze()
        await supervise(
            stop,
            {
                "routes": routes.run(),
                "tokens": tokens.run(),
                "waking": waking.run(),
                "http": serve_http(app, settings),
            },
        )
    fronts.close()
    await bus.close()


def _make_private(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)


if __name__ == "__main__":
    run(serve)
