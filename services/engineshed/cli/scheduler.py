"""The scheduler's own API, for what the gateway does not offer: simulations and replays."""

import json
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import grpc
from pydantic import ValidationError

from engineshed.api.scheduler.v1 import scheduling_service_pb2 as pb
from engineshed.api.scheduler.v1.endpoint_service_pb2 import Endpoint, ListEndpointsRequest
from engineshed.api.scheduler.v1.endpoint_service_pb2_grpc import EndpointServiceStub
from engineshed.api.scheduler.v1.node_service_pb2 import ListNodesRequest, Node
from engineshed.api.scheduler.v1.node_service_pb2_grpc import NodeServiceStub
from engineshed.api.scheduler.v1.scheduling_service_pb2_grpc import SchedulingServiceStub
from engineshed.cli.client import DEFAULT_STATE, ApiError, find_connection
from engineshed.errors import Kind
from engineshed.rpc import LEADER, error_from, open_channel
from engineshed.runtime import TlsSettings

_PAGE: Final = 1_000
_TIMEOUT_S: Final = 300.0  # a simulation of a large fleet takes seconds


class Scheduler:
    """Calls to the scheduler that leads."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._scheduling = SchedulingServiceStub(channel)
        self._nodes = NodeServiceStub(channel)
        self._endpoints = EndpointServiceStub(channel)

    async def simulate(self, changes: Sequence[pb.SimulatedChange]) -> pb.SimulateChangesResponse:
        """Return what would become of the fleet."""
        request = pb.SimulateChangesRequest(changes=changes)
        answer: pb.SimulateChangesResponse = await self._scheduling.SimulateChanges(
            request, timeout=_TIMEOUT_S
        )
        return answer

    async def replay(
        self, request: pb.ReplayDecisionsRequest
    ) -> AsyncIterator[pb.ReplayDecisionsResponse]:
        """Yield how far a replay is; the last has the result."""
        async for said in self._scheduling.ReplayDecisions(request):
            yield said

    async def nodes(self) -> list[Node]:
        """Return all nodes."""
        found: list[Node] = []
        token: str | None = ""
        while token is not None:
            request = ListNodesRequest(page_size=_PAGE, page_token=token)
            page = await self._nodes.ListNodes(request)
            found += page.nodes
            token = page.next_page_token or None
        return found

    async def endpoints(self) -> list[Endpoint]:
        """Return the endpoints of the caller's organization."""
        found: list[Endpoint] = []
        token: str | None = ""
        while token is not None:
            request = ListEndpointsRequest(page_size=_PAGE, page_token=token)
            page = await self._endpoints.ListEndpoints(request)
            found += page.endpoints
            token = page.next_page_token or None
        return found


@asynccontextmanager
async def connected() -> AsyncIterator[Scheduler]:
    """Yield the scheduler that leads; what it refuses is raised as an ApiError."""
    address = find_address()
    try:
        tls = TlsSettings().tls_to("scheduler")
    except ValidationError as error:
        raise ApiError(str(error.errors()[0]["msg"]).removeprefix("Value error, ")) from error
    token = find_connection().token
    async with open_channel(address, token, "shed", healthy=LEADER, tls=tls) as channel:
        try:
            yield Scheduler(channel)
        except grpc.aio.AioRpcError as error:
            raise _explained(error, address) from error


def find_address() -> str:
    """Return ENGINESHED_SCHEDULER_ADDRESS, else where `shed up` has put the scheduler.

    Raises:
        ApiError: neither is there.
    """
    if address := os.environ.get("ENGINESHED_SCHEDULER_ADDRESS"):
        return address
    ports = Path(os.environ.get("ENGINESHED_STATE_DIR", DEFAULT_STATE)) / "ports.json"
    if not ports.is_file():
        raise ApiError(
            "where is the scheduler? Set ENGINESHED_SCHEDULER_ADDRESS to its host:port (of "
            "several: ipv4:10.0.0.1:7002,10.0.0.2:7002), or ENGINESHED_STATE_DIR to the directory "
            f"of a running stack (looked in {ports.parent.absolute()})"
        )
    return f"127.0.0.1:{json.loads(ports.read_text())['scheduler']}"


def _explained(error: grpc.aio.AioRpcError, address: str) -> ApiError:
    found = error_from(error)
    if found is None:
        return ApiError(f"the scheduler failed: {error.code().name} {error.details()}")
    if found.kind is Kind.UNAVAILABLE and found.reason == error.code().name:  # gRPC's own word
        return ApiError(
            f"no scheduler that leads can be reached at {address}. Is it up, is the address right "
            "(ENGINESHED_SCHEDULER_ADDRESS), and does it ask for a certificate "
            "(ENGINESHED_TLS_CERT_FILE)?"
        )
    return ApiError(found.message)
