"""A real receiver of OTLP, over gRPC as our services speak it and over HTTP as Triton does."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
from aiohttp import web
from google.protobuf import json_format
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)

DEADLINE = 30.0


class Spans(TraceServiceServicer):
    """What was received, by the name of the service that it is from."""

    def __init__(self) -> None:
        self.by_service: dict[str, list[Any]] = {}
        self.grpc_url = ""
        self.http_url = ""
        self._more = asyncio.Event()

    async def Export(self, request: ExportTraceServiceRequest, context: object) -> object:
        self._take(request)
        return ExportTraceServiceResponse()

    async def post(self, request: web.Request) -> web.Response:
        body = await request.read()
        if request.content_type == "application/json":
            message = json_format.Parse(_hex_as_base64(body), ExportTraceServiceRequest())
        else:
            message = ExportTraceServiceRequest.FromString(body)
        self._take(message)
        return web.json_response({})

    async def of(self, service: str, fits: Callable[[Any], bool] = lambda _: True) -> Any:
        """Return the first span of a service that fits, once it is there."""
        async with asyncio.timeout(DEADLINE):
            while True:
                self._more.clear()
                for span in self.by_service.get(service, ()):
                    if fits(span):
                        return span
                await self._more.wait()

    def _take(self, request: ExportTraceServiceRequest) -> None:
        for resource in request.resource_spans:
            service = attributes(resource.resource)["service.name"]
            for scope in resource.scope_spans:
                self.by_service.setdefault(service, []).extend(scope.spans)
        self._more.set()


def attributes(holder: Any) -> dict[str, Any]:
    """Return the attributes of a span or a resource."""
    return {
        item.key: getattr(item.value, item.value.WhichOneof("value")) for item in holder.attributes
    }


@asynccontextmanager
async def receiving() -> AsyncIterator[Spans]:
    """Receive spans for the time of the block."""
    spans = Spans()
    server = grpc.aio.server()
    add_TraceServiceServicer_to_server(spans, server)
    spans.grpc_url = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    app = web.Application()
    app.router.add_post("/v1/traces", spans.post)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    spans.http_url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1/traces"
    yield spans
    await runner.cleanup()
    await server.stop(0)


def _hex_as_base64(body: bytes) -> str:
    """Return OTLP's JSON as protobuf's: ids are hexadecimal there."""

    def put_right(value: Any) -> Any:
        if isinstance(value, dict):
            return {
                key: base64.b64encode(bytes.fromhex(item)).decode()
                if key in ("traceId", "spanId", "parentSpanId")
                else put_right(item)
                for key, item in value.items()
            }
        return [put_right(item) for item in value] if isinstance(value, list) else value

    return json.dumps(put_right(json.loads(body)))
