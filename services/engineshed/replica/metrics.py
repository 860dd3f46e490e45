"""What a replica measures of itself, for Prometheus.

The names are those of OpenTelemetry's conventions for generative AI, as Prometheus spells them
(`gen_ai.server.time_to_first_token` in seconds is `gen_ai_server_time_to_first_token_seconds`).
"""

from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from engineshed.replica.admission import Admission
from engineshed.replica.bodies import Usage
from engineshed.replica.gauges import Gauges

_DURATIONS: Final = tuple(0.01 * 2**power for power in range(17))  # to 11 minutes
_TOKEN_TIMES: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 1.0, 2.5)
_TOKENS: Final = tuple(float(4**power) for power in range(10))
_OPERATION: Final = "gen_ai_operation_name"
_MODEL: Final = "gen_ai_request_model"


class Metrics:
    """The metrics of one replica.

    Attributes:
        engine: what the engine told of itself last.

    """

    def __init__(self, model: str, admission: Admission, *others: Collector) -> None:
        """Measure what is asked of `model`; `others` are shown on the same page."""
        self._model = model
        self.engine = Gauges()
        # Else each has a series more, with the time of its making.
        disable_created_metrics()  # type: ignore[no-untyped-call]  # untyped in the library
        self._registry = CollectorRegistry()
        for collector in (_AdmissionCollector(admission), _EngineCollector(self), *others):
            self._registry.register(collector)
        names = (_OPERATION, _MODEL)
        self._duration = Histogram(
            "gen_ai_server_request_duration_seconds",
            "From the request to the end of its answer.",
            (*names, "error_type"),
            buckets=_DURATIONS,
            registry=self._registry,
        )
        self._first_token = Histogram(
            "gen_ai_server_time_to_first_token_seconds",
            "From the request to the first token of its answer.",
            names,
            buckets=_DURATIONS,
            registry=self._registry,
        )
        self._per_token = Histogram(
            "gen_ai_server_time_per_output_token_seconds",
            "Between two tokens of a sequence, after the first; a mean for each request.",
            names,
            buckets=_TOKEN_TIMES,
            registry=self._registry,
        )
        self._usage = Histogram(
            "gen_ai_client_token_usage",
            "Tokens of a request.",
            (*names, "gen_ai_token_type"),
            buckets=_TOKENS,
            registry=self._registry,
        )

    def observe(
        self,
        operation: str,
        *,
        seconds: float,
        first_token_seconds: float | None,
        usage: Usage,
        sequences: int,
        error: str,
    ) -> None:
        """Take note of a request that ended; `error` is a code, empty if all went well."""
        labels = (operation, self._model)
        self._duration.labels(*labels, error).observe(seconds)
        self._usage.labels(*labels, "input").observe(usage.prompt_tokens)
        self._usage.labels(*labels, "output").observe(usage.completion_tokens)
        if first_token_seconds is None:
            return
        self._first_token.labels(*labels).observe(first_token_seconds)
        # Sequences run side by side, so each took the whole time for its share.
        later = usage.completion_tokens / sequences - 1
        if later > 0:
            self._per_token.labels(*labels).observe((seconds - first_token_seconds) / later)

    def text(self) -> str:
        """Return all of it in Prometheus' text form."""
        return generate_latest(self._registry).decode()


class _AdmissionCollector(Collector):
    """Reads the counts where they are kept, so that they are exact."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission

    def collect(self) -> list[Metric]:
        now = self._admission
        return [
            GaugeMetricFamily(
                "engineshed_replica_requests_in_flight", "Requests now.", value=now.in_flight
            ),
            GaugeMetricFamily(
                "engineshed_replica_requests_limit",
                "Requests that are admitted at once.",
                value=now.max_requests,
            ),
            CounterMetricFamily(
                "engineshed_replica_requests_admitted", "Requests admitted.", value=now.admitted
            ),
            CounterMetricFamily(
                "engineshed_replica_requests_refused",
                "Requests refused because there were too many, or none were taken.",
                value=now.refused,
            ),
        ]


class _EngineCollector(Collector):
    """Shows what the engine tells; of one that tells nothing there is nothing."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> list[Metric]:
        now = self._metrics.engine
        shown = {
            "engineshed_replica_engine_requests_waiting": (
                "Requests that the engine has not begun.",
                now.waiting,
            ),
            "engineshed_replica_engine_requests_running": (
                "Requests that the engine works on.",
                now.running,
            ),
            "engineshed_replica_kv_cache_used_ratio": (
                "The share of the engine's pool of keys and values that is in use.",
                now.kv_cache_used,
            ),
            "engineshed_replica_kv_cache_tokens": (
                "Tokens that the engine's pool of keys and values has room for.",
                now.kv_cache_tokens,
            ),
        }
        return [
            GaugeMetricFamily(name, text, value=value)
            for name, (text, value) in shown.items()
            if value is not None
        ]
