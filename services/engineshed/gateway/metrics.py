"""What the gateway measures of the requests that it answers.

The names are those of OpenTelemetry's conventions where it has one. Requests come by the thousand
a second, so everything that one needs is looked up by a dictionary, and nothing happens by chunk.
"""

from collections.abc import Iterable
from typing import Final

from prometheus_client import Histogram
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from engineshed.telemetry import Outcomes, counter, durations, gauge

# nginx's word for a client that left: nobody sees it but log and metrics.
CLIENT_GONE: Final = 499

_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_REASONS: Final = (
    "authentication_unavailable",
    "body_too_large",
    "draining",
    "endpoint_failed",
    "endpoint_not_found",
    "endpoint_not_ready",
    "endpoint_recovering",
    "endpoint_stopped",
    "endpoint_waking",
    "ending",
    "engine_unavailable",
    "insufficient_scope",
    "invalid_api_key",
    "invalid_json",
    "loading",
    "method_not_allowed",
    "missing_model",
    "overloaded",
    "unknown_url",
    "wrong_region",
)
_OTHER: Final = "other"
# As OpenTelemetry advises for its GenAI metrics: 10 ms to 82 s.
_DURATIONS: Final = tuple(0.01 * 2**power for power in range(14))
_MODEL: Final = ("gen_ai_request_model",)


class EndpointMetrics:
    """One endpoint's requests: those in flight, and the histograms that they end up in."""

    __slots__ = ("duration", "first_token", "in_flight")

    def __init__(self, duration: Histogram, first_token: Histogram) -> None:
        self.in_flight = 0
        self.duration = duration
        self.first_token = first_token


class GatewayMetrics(Collector):
    """All requests to one gateway."""

    def __init__(self) -> None:
        self._requests = durations(
            "http_server_request_duration_seconds",
            "From a request to the end of its answer; its beginning where it follows events.",
            ("http_request_method", "http_route", "http_response_status_code"),
        )
        self._durations = durations(
            "gen_ai_server_request_duration_seconds",
            "From an inference request to the end of its answer, as its caller sees it.",
            _MODEL,
            _DURATIONS,
        )
        self._first_tokens = durations(
            "gen_ai_server_time_to_first_token_seconds",
            "From an inference request to the first token of an answer that is streamed.",
            _MODEL,
            _DURATIONS,
        )
        self._by_request: dict[tuple[str, str, int], Histogram] = {}
        self._endpoints: dict[str, EndpointMetrics] = {}
        self._refusals = Outcomes(*_REASONS, _OTHER)
        self.passed_over = 0
        """Replicas that did not begin to answer, so that another one was asked."""
        self.broken = 0
        """Answers that broke off after their beginning."""
        self.clients_gone = 0
        """Requests whose client left before the end of the answer."""
        self.held = 0
        """Requests that wait for their endpoint to have a replica."""
        self.wakes = Outcomes("woken", "failed")
        """How often the scheduler was asked to wake an idle endpoint."""

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Take note of a request that is over; `route` is a template, or empty: there is none."""
        key = (method, route, status)
        child = self._by_request.get(key)
        if child is None:
            known = method if method in _METHODS else "_OTHER"
            child = self._requests.labels(known, route, status)
            if known == method:
                self._by_request[key] = child
        child.observe(seconds)
        if status == CLIENT_GONE:
            self.clients_gone += 1

    def endpoint(self, routing_key: str) -> EndpointMetrics:
        """Return what is measured of an endpoint that there is."""
        found = self._endpoints.get(routing_key)
        if found is None:
            found = self._endpoints[routing_key] = EndpointMetrics(
                self._durations.labels(routing_key), self._first_tokens.labels(routing_key)
            )
        return found

    def forget(self, routing_key: str) -> None:
        """Drop what was measured of an endpoint that is gone."""
        if self._endpoints.pop(routing_key, None) is not None:
            self._durations.remove(routing_key)
            self._first_tokens.remove(routing_key)

    def refuse(self, reason: str) -> None:
        """Take note of an inference request that was refused."""
        self._refusals[reason if reason in self._refusals else _OTHER] += 1

    def collect(self) -> Iterable[Metric]:
        """Return the metrics."""
        yield from self._requests.collect()
        yield from self._durations.collect()
        yield from self._first_tokens.collect()
        yield gauge(
            "engineshed_gateway_requests_in_flight",
            "Inference requests that are being answered.",
            {key: one.in_flight for key, one in list(self._endpoints.items())},
            _MODEL,
        )
        yield gauge(
            "engineshed_gateway_requests_held",
            "Inference requests that wait for their endpoint to have a replica.",
            self.held,
        )
        yield counter(
            "engineshed_gateway_wakes",
            "How often the scheduler was asked to wake an idle endpoint, by what came of it.",
            self.wakes,
            ("outcome",),
        )
        yield counter(
            "engineshed_gateway_refusals",
            "Inference requests that were not admitted, by the code of the error.",
            self._refusals,
            ("reason",),
        )
        yield counter(
            "engineshed_gateway_replicas_passed_over",
            "Replicas that did not begin to answer a request, so that another one was asked.",
            self.passed_over,
        )
        yield counter(
            "engineshed_gateway_answers_broken",
            "Answers that broke off after their beginning.",
            self.broken,
        )
        yield counter(
            "engineshed_gateway_clients_gone",
            "Requests whose client left before the end of the answer.",
            self.clients_gone,
        )
