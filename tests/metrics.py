"""Reading metrics: from a collector, or from what a process answers."""

from collections.abc import Iterable

from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector


def sample(source: Collector | str, name: str, **labels: str) -> float:
    """Return the sum of the samples of this name that have these labels; 0: there is none."""
    return sum(
        one.value
        for family in _families(source)
        for one in family.samples
        if one.name == name and labels.items() <= one.labels.items()
    )


def names(text: str) -> set[str]:
    """Return the names of all metrics in Prometheus' text."""
    return {family.name for family in text_string_to_metric_families(text)}


def _families(source: Collector | str) -> Iterable[Metric]:
    if isinstance(source, str):
        return text_string_to_metric_families(source)
    return source.collect()
