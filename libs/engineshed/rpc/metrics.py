"""What a gRPC server measures; the names are OpenTelemetry's, as Prometheus spells them."""

from collections import Counter
from collections.abc import Collection, Iterable

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from engineshed.telemetry import durations, gauge

_OTHER = ("_OTHER", "_OTHER")


class RpcMetrics(Collector):
    """The calls of one server."""

    def __init__(self, methods: Collection[str]) -> None:
        """Tell apart `methods` (`/package.Service/Method`); what else is called is one series."""
        self._names = {method: _names(method) for method in methods}
        self._active = Counter(dict.fromkeys(sorted(name for name, _ in self._names.values()), 0))
        self._durations = durations(
            "rpc_server_duration_seconds",
            "From a call's beginning to its end; streams last as long as somebody listens.",
            ("rpc_service", "rpc_method", "rpc_grpc_status_code"),
        )

    def begin(self, method: str) -> None:
        """Take note that a call has begun."""
        self._active[self._names.get(method, _OTHER)[0]] += 1

    def end(self, method: str, code: str, seconds: float) -> None:
        """Take note that it has ended, with this status."""
        service, name = self._names.get(method, _OTHER)
        self._active[service] -= 1
        self._durations.labels(service, name, code).observe(seconds)

    def collect(self) -> Iterable[Metric]:
        """Return the metrics."""
        yield gauge(
            "rpc_server_active_requests",
            "Calls that are being served now.",
            self._active,
            ("rpc_service",),
        )
        yield from self._durations.collect()


def _names(method: str) -> tuple[str, str]:
    _, service, name = method.split("/")
    return service, name
