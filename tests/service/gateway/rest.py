"""The REST API's application, with stand-ins for the services behind it."""

from collections.abc import Callable
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import httpx
from google.protobuf.timestamp_pb2 import Timestamp

from engineshed.api.scheduler.v1 import (
    endpoint_service_pb2,
)
from engineshed.api.scheduler.v1.route_pb2 import Route
from engineshed.auth import Principal, UnauthenticatedError
from engineshed.gateway.app import Gateway
from engineshed.gateway.controlplane import control_plane, schemas
from engineshed.gateway.dataplane.fronts import Fronts
from engineshed.gateway.metrics import GatewayMetrics
from engineshed.gateway.regions import Regions
from engineshed.telemetry import Exposition

ENDPOINT = "ep_01HZZZZZZZZZZZZZZZZZZZZZZZ"
ENDPOINTS = "/v0/dedicated_endpoints"
ONE = f"{ENDPOINTS}/{ENDPOINT}"
NEW = {"name": "bot", "model_name": "m"}


class Scheduler:
    """Keeps the requests, and answers each with an endpoint or an error."""

    def __init__(self) -> None:
        self.requests: list[Any] = []
        self.error: Exception | None = None
        self.explained: Any = None
        created = Timestamp()
        created.FromDatetime(datetime(2026, 1, 1, tzinfo=UTC))
        self.endpoint = endpoint_service_pb2.Endpoint(
            endpoint_id=ENDPOINT,
            state=endpoint_service_pb2.Endpoint.STATE_QUEUED,
            create_time=created,
            update_time=created,
            etag="v1",
        )

    async def answer(self, request: Any, **_: Any) -> Any:
        self.requests.append(request)
        if self.error is not None:
            raise self.error
        return SimpleNamespace(
            endpoint=self.endpoint, endpoints=[self.endpoint], next_page_token=""
        )

    CreateEndpoint = GetEndpoint = ListEndpoints = UpdateEndpoint = DeleteEndpoint = answer
    RollbackEndpoint = RestartEndpoint = answer

    async def ExplainEndpoint(self, request: Any, **_: Any) -> Any:
        return self.explained


class Routes:
    """Has the routes that it is given, and keeps what was waited for, which is there at once."""

    def __init__(self) -> None:
        self.entries: dict[str, Route] = {}
        self.awaited: list[tuple[str, Callable[[Route], bool]]] = []

    async def until(self, routing_key: str, usable: Callable[[Route], bool]) -> None:
        self.awaited.append((routing_key, usable))


class Callers:
    async def authenticate(self, secret: str) -> Principal:
        if secret == "es_operator":
            return Principal("tok_2", "_platform", frozenset({"operator"}))
        if secret != "es_mine":
            raise UnauthenticatedError("unknown")
        return Principal("tok_1", "org_1", frozenset({"admin"}))


class NoInference:
    def serves(self, scope: Any) -> bool:
        return False


async def refused(answer: httpx.Response, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["x-request-id"] == answer.json()["request_id"]
    schemas.Problem.model_validate(answer.json())
    problem: dict[str, Any] = answer.json()
    return problem


def fields(problem: dict[str, Any]) -> list[str]:
    return [item["field"] for item in problem["errors"]]


def application(scheduler: Scheduler, routes: Routes, fronts: Fronts | None = None) -> Gateway:
    """Return a gateway that asks `scheduler` whatever is asked of it, and replicas by `fronts`."""
    services: Any = SimpleNamespace(
        endpoints=scheduler,
        scheduling=scheduler,
        tokens=scheduler,
        authenticator=Callers(),
        routes=routes,
        fronts=fronts,
    )
    metrics = GatewayMetrics()
    exposition = Exposition("gateway", metrics)
    plane = control_plane(services, Regions("local", "http://localhost:8080"), metrics, exposition)
    return Gateway(NoInference(), plane)  # type: ignore[arg-type]  # all that it asks of it
