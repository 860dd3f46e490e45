"""The buckets that services share."""

from typing import Final

from engineshed.api.catalog.v1.token_service_pb2 import TokenGrant
from engineshed.api.scheduler.v1.route_pb2 import Route
from engineshed.bus.kv import Bucket

# Where requests for a routing key go; kept by the scheduler.
ROUTES: Final = Bucket(
    "routes",
    Route,
    order=lambda route: (route.term, route.generation),
    is_tombstone=lambda route: route.tombstone,
)

# Who a token is, by the sha256 of the token in hexadecimal; kept by the catalog.
TOKENS: Final = Bucket(
    "tokens",
    TokenGrant,
    order=lambda grant: (grant.term, grant.generation),
    is_tombstone=lambda grant: grant.tombstone,
)
