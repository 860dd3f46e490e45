"""Metrics, briefly.

What a part counts it keeps itself, and its collector reads it there when Prometheus asks. Only
what must be summed up when it happens (durations) is a metric object of its own.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from prometheus_client import Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

# From a millisecond to half a minute; calls, commits and requests of the control plane fit in.
SECONDS: Final = (
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    30.0,
)

Values = float | Mapping[str, float] | Iterable[tuple[Sequence[str], float]]


class Outcomes(Counter[str]):
    """How often each outcome came, with those of interest there from the beginning.

    A series that appears only with its first failure has no increase to alert on.
    """

    def __init__(self, *names: str) -> None:
        super().__init__(dict.fromkeys(names, 0))


def gauge(name: str, what: str, values: Values, labels: Sequence[str] = ()) -> GaugeMetricFamily:
    """Return a gauge: one value, or one for each value of the label, or of all labels."""
    if not labels:
        assert isinstance(values, (int, float)), "without labels there is one value"
        return GaugeMetricFamily(name, what, value=values)
    family = GaugeMetricFamily(name, what, labels=labels)
    for key, value in _rows(values):
        family.add_metric(key, value)
    return family


def counter(
    name: str, what: str, values: Values, labels: Sequence[str] = ()
) -> CounterMetricFamily:
    """Return a counter, likewise; Prometheus sees `name` with `_total` behind it."""
    if not labels:
        assert isinstance(values, (int, float)), "without labels there is one value"
        return CounterMetricFamily(name, what, value=values)
    family = CounterMetricFamily(name, what, labels=labels)
    for key, value in _rows(values):
        family.add_metric(key, value)
    return family


def durations(
    name: str, what: str, labels: Sequence[str] = (), buckets: Sequence[float] = SECONDS
) -> Histogram:
    """Return a histogram of its own, which whoever observes it also exposes."""
    return Histogram(name, what, labels, buckets=buckets, registry=None)


def _rows(values: Values) -> Iterable[tuple[Sequence[str], float]]:
    assert not isinstance(values, (int, float)), "with labels there are several values"
    if isinstance(values, Mapping):
        return [((key,), value) for key, value in list(values.items())]
    return values
