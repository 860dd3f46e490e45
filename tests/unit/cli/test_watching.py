"""Moments as people give them to `shed logs`."""

from datetime import UTC, datetime

import pytest
import typer

from engineshed.cli.watching import moment

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("", ""),
        ("90s", "2026-01-31T11:58:30Z"),
        ("10m", "2026-01-31T11:50:00Z"),
        ("1.5h", "2026-01-31T10:30:00Z"),
        ("2w", "2026-01-17T12:00:00Z"),
        ("2026-01-30T08:00:00Z", "2026-01-30T08:00:00Z"),
        ("2026-01-30T08:00:00+02:00", "2026-01-30T06:00:00Z"),
    ],
)
def test_a_moment_is_a_time_or_so_long_ago(said: str, meant: str) -> None:
    assert moment(said, NOW) == meant


@pytest.mark.parametrize("said", ["yesterday", "10", "-3m", "999999999w", "2026-13-01"])
def test_what_is_no_moment_is_refused_with_what_would_be_one(said: str) -> None:
    with pytest.raises(typer.BadParameter, match="10m, 2h or 3d ago"):
        moment(said, NOW)
