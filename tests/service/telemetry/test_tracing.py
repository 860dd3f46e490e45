"""One trace from the gateway to Triton, where an exporter is set; nothing of it elsewhere."""

import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from tests.service.gateway.planes import data_plane
from tests.service.replica.fronts import KEY, SECRET, Front, write_echo_engine
from tests.service.telemetry.receiver import Spans, attributes, receiving

from engineshed.api.scheduler.v1.route_pb2 import Route
from engineshed.auth import Principal
from engineshed.gateway.dataplane.balancer import Balancer
from engineshed.gateway.dataplane.forward import Forwarder
from engineshed.gateway.dataplane.fronts import Fronts
from engineshed.gateway.metrics import GatewayMetrics
from engineshed.telemetry import tracing

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
CALLER = f"00-{TRACE}-00f067aa0ba902b7-01"


class Callers:
    async def authenticate(self, _: str) -> Principal:
        return Principal("tok_1", "org_1", frozenset({"inference"}))


@pytest.fixture
async def spans(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Spans]:
    """Receive what this process and those that it starts export."""
    async with receiving() as spans:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", spans.grpc_url)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")  # milliseconds
        monkeypatch.setenv("ENGINESHED_TRITON_TRACES_URL", spans.http_url)
        monkeypatch.setattr(tracing, "_tracer", None)
        tracing.configure_tracing("gateway")
        yield spans
        tracing._tracer.span_processor.shutdown()


@pytest.fixture
async def front(spans: Spans, tmp_path: Path) -> AsyncIterator[Front]:
    front = Front.start(tmp_path / "replica", *write_echo_engine(tmp_path / "echo"))
    yield await front.ready()
    await front.end()


@pytest.fixture
async def gateway(front: Front) -> AsyncIterator[httpx.AsyncClient]:
    route = Route(routing_key=KEY, endpoint_id="ep_1", org_id="org_1", region="local")
    route.replicas.add(replica_id="rep_1", url=front.state.http_url, secret=SECRET)
    fronts = Fronts()
    forwarder = Forwarder(fronts, Balancer())
    routes, metrics = {KEY: route}, GatewayMetrics()
    plane = data_plane(routes, Callers(), forwarder, metrics)
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(plane),
        base_url="http://gateway",
        headers={"authorization": "Bearer es_any"},
    ) as client:
        yield client
    fronts.close()


async def test_a_callers_trace_goes_on_through_gateway_and_front_into_triton(
    gateway: httpx.AsyncClient, spans: Spans
) -> None:
    body = {"model": KEY, "prompt": "a secret prompt", "max_tokens": 4}
    answer = await gateway.post("/v1/completions", json=body, headers={"traceparent": CALLER})
    assert answer.status_code == 200

    entered = await spans.of("engineshed-gateway")
    served = await spans.of("engineshed-replica")
    computed = await spans.of(
        "engineshed-triton", lambda span: span.parent_span_id == served.span_id
    )

    assert {span.trace_id.hex() for span in (entered, served, computed)} == {TRACE}
    assert entered.parent_span_id.hex() == "00f067aa0ba902b7"
    assert served.parent_span_id == entered.span_id
    assert entered.name == "POST /v1/completions"
    told = attributes(entered)
    assert told["gen_ai.request.model"] == KEY
    assert told["http.response.status_code"] == 200
    assert told["engineshed.endpoint_id"] == "ep_1"
    assert told["engineshed.request_id"] == answer.headers["x-request-id"]
    assert [event.name for event in served.events] == ["tokenized", "first token"]
    assert attributes(served)["gen_ai.usage.output_tokens"] == 4
    assert "secret" not in str(spans.by_service)

    begun = await gateway.post("/v1/completions", json=body)
    assert begun.status_code == 200
    fresh = await spans.of("engineshed-replica", lambda span: span.trace_id.hex() != TRACE)
    assert fresh.parent_span_id  # the gateway's: a request without a trace begins one there


def test_without_an_exporter_nothing_that_exports_is_imported() -> None:
    program = """
import sys
for name in ("catalog", "scheduler", "gateway", "replica"):
    __import__(f"engineshed.{name}.__main__")
import engineshed.agent.process, engineshed.replica.front
from engineshed.telemetry.tracing import configure_tracing, start_span
configure_tracing("test")
start_span("work", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01").end({})
sdk = ("opentelemetry.sdk", "opentelemetry.exporter")  # FastAPI imports the mere interface
print([name for name in sys.modules if name.startswith(sdk)])
"""
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("name", "value"),
    [("OTEL_TRACES_EXPORTER", "zipkin"), ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")],
)
def test_what_is_asked_for_and_not_there_is_named(monkeypatch, name: str, value: str) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4317")
    monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=f"{name}='{value}'"):
        tracing.configure_tracing("test")
