"""Asking the scheduler to wake an idle endpoint."""

from typing import Final, Protocol

import grpc
import structlog

from engineshed.api.scheduler.v1.endpoint_service_pb2 import WakeEndpointRequest
from engineshed.api.scheduler.v1.endpoint_service_pb2_grpc import EndpointServiceStub
from engineshed.rpc import caller_metadata

WAKE_SECONDS: Final = 5.0

log: Final[structlog.stdlib.BoundLogger] = structlog.get_logger()


class Wake(Protocol):
    """Asks for a replica of an endpoint that is idle."""

    async def __call__(self, endpoint_id: str, secret: str, request_id: str) -> bool:
        """Ask in the name of the holder of `secret`; tell whether that was heard."""
        ...


def wake_over(channel: grpc.aio.Channel) -> Wake:
    """Return what asks the scheduler at the other end of `channel`."""
    stub = EndpointServiceStub(channel)

    async def wake(endpoint_id: str, secret: str, request_id: str) -> bool:
        try:
            await stub.WakeEndpoint(
                WakeEndpointRequest(endpoint_id=endpoint_id),
                metadata=caller_metadata(secret, request_id),
                timeout=WAKE_SECONDS,
            )
        except grpc.aio.AioRpcError as error:
            log.warning(
                "endpoint not woken",
                endpoint=endpoint_id,
                request_id=request_id,
                code=error.code().name,
                detail=error.details(),
            )
            return False
        return True

    return wake
