"""What benchmarks report: ratios, targets and numbers as text."""

import pytest
from benchmarks.harness import Figure, Target, amount, percentile


def figure(value: float, target: Target, baseline: float | None = 100.0) -> Figure:
    return Figure("speed", value, "req/s", "bare", baseline, target)


@pytest.mark.parametrize(
    ("value", "target", "met"),
    [
        (60, Target("at least", 0.6), True),
        (59, Target("at least", 0.6), False),
        (131, Target("at most", 1.3), False),
        (101, Target("at most", 1, "difference"), True),
        (102, Target("at most", 1, "difference"), False),
        (5, Target("at most", 5, "value"), True),
        (6, Target("at most", 5, "value"), False),
    ],
)
def test_a_target_is_held_against_the_value_the_ratio_or_the_difference(value, target, met) -> None:
    assert figure(value, target).met is met


def test_without_a_baseline_a_ratio_is_neither_met_nor_missed() -> None:
    alone = figure(60, Target("at least", 0.6), None)
    assert alone.ratio is None
    assert alone.met is None


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.04567, "0.0457"), (1.3, "1.3"), (40.0, "40"), (8300.4, "8,300"), (99.96, "100")],
)
def test_amounts_keep_three_digits(value, text) -> None:
    assert amount(value) == text


def test_a_percentile_is_a_value_that_was_measured() -> None:
    values = list(range(1, 101))
    assert [percentile(values, percent) for percent in (1, 50, 99, 100)] == [1, 50, 99, 100]
    assert percentile([7], 50) == 7
