"""All metrics of one process, in Prometheus' text form."""

import asyncio
from importlib.metadata import version
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from engineshed.telemetry.families import gauge

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


class Exposition:
    """What a process exposes: the metrics of its parts, of the process, and its version.

    Collectors are asked in a thread, so that a large answer holds nobody up. They copy what the
    event loop may change meanwhile before they go through it.
    """

    def __init__(self, service: str, *collectors: Collector) -> None:
        # Else each has a series more, with the time of its making.
        disable_created_metrics()  # type: ignore[no-untyped-call]  # untyped in the library
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self.add(_Build(service), *collectors)

    def add(self, *collectors: Collector) -> None:
        """Expose these too, from now on."""
        for collector in collectors:
            self._registry.register(collector)

    async def text(self) -> bytes:
        """Return all of it."""
        return await asyncio.to_thread(generate_latest, self._registry)


class _Build(Collector):
    def __init__(self, service: str) -> None:
        self._labels = (service, version("engineshed"))

    def collect(self) -> list[Metric]:
        what = "Which release of which service this is."
        return [gauge("engineshed_build_info", what, [(self._labels, 1)], ("service", "version"))]
