"""Where endpoints answer: below this gateway's own host, or below that of another region's."""

from collections.abc import Mapping
from urllib.parse import urlsplit

from engineshed.api.scheduler.v1.route_pb2 import Route


class Regions:
    """The base URLs of the gateways, as far as this one knows them."""

    def __init__(self, own: str, own_url: str, others: Mapping[str, str] | None = None) -> None:
        """Know the gateways of the region `own` by `own_url`, whatever `others` say of it."""
        self.own = own
        self._urls = {**(others or {}), own: own_url}

    @property
    def own_host(self) -> str:
        """What comes after the routing key in the host names of this region's endpoints."""
        return urlsplit(self._urls[self.own]).hostname or ""

    def base_url(self, route: Route) -> str:
        """Return the base URL of the gateways that serve a route; "" when it is not known."""
        return route.base_url or self._urls.get(route.region, "")

    def endpoint_url(self, region: str, routing_key: str) -> str:
        """Return an endpoint's own URL.

        Where the other region's gateway is not known it is ours, which says where it runs.
        """
        return below(self._urls.get(region, self._urls[self.own]), routing_key)


def below(base_url: str, routing_key: str) -> str:
    """Return the URL of the host name that a routing key has below a gateway's."""
    scheme, _, host = base_url.partition("://")
    return f"{scheme}://{routing_key}.{host}"
