"""A data plane over a test's own routes and callers."""

from collections.abc import Mapping

from engineshed.api.scheduler.v1.route_pb2 import Route
from engineshed.auth import Authenticator
from engineshed.gateway.dataplane import DataPlane
from engineshed.gateway.dataplane.admission import Admission
from engineshed.gateway.dataplane.forward import Forwarder
from engineshed.gateway.dataplane.waking import Limits, Waking
from engineshed.gateway.metrics import GatewayMetrics
from engineshed.gateway.news import News
from engineshed.gateway.regions import Regions
from engineshed.gateway.wake import Wake


async def nobody_hears(endpoint_id: str, secret: str, request_id: str) -> bool:
    """Wake nothing: there is no scheduler."""
    return False


def data_plane(
    routes: Mapping[str, Route],
    callers: Authenticator,
    forwarder: Forwarder,
    metrics: GatewayMetrics,
    regions: Regions | None = None,
    *,
    wake: Wake = nobody_hears,
    news: News | None = None,
    limits: Limits | None = None,
) -> DataPlane:
    """Wire it as the gateway does."""
    admission = Admission(callers)
    waking = Waking(routes, admission, forwarder, wake, news or News(), metrics, limits)
    regions = regions or Regions("local", "http://localhost:8080")
    return DataPlane(routes, admission, forwarder, waking, regions, metrics)
