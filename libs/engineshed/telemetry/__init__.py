"""What a process says of itself while it runs: metrics for Prometheus, spans for OpenTelemetry.

Spans are in `engineshed.telemetry.tracing`.
"""

from engineshed.telemetry.exposition import CONTENT_TYPE, Exposition
from engineshed.telemetry.families import Outcomes, counter, durations, gauge
from engineshed.telemetry.listener import serve_metrics

__all__ = [
    "CONTENT_TYPE",
    "Exposition",
    "Outcomes",
    "counter",
    "durations",
    "gauge",
    "serve_metrics",
]
