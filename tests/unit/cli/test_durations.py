"""Durations as people give them in options."""

import pytest
import typer

from engineshed.cli.durations import seconds


@pytest.mark.parametrize(
    ("said", "meant"), [("90s", 90), ("5m", 300), ("0.5s", 0.5), ("1.5h", 5400), ("0", 0)]
)
def test_a_duration_is_a_number_with_a_unit(said: str, meant: float) -> None:
    assert seconds(said) == meant


@pytest.mark.parametrize("said", ["5", "-3m", "soon", "", "999999999w"])
def test_what_is_no_duration_is_refused_with_what_would_be_one(said: str) -> None:
    with pytest.raises(typer.BadParameter, match="90s, 5m or 2h"):
        seconds(said)
