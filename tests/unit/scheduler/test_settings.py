"""How long stopped endpoints and logs are kept, as it is set and as it is told."""

from datetime import timedelta
from pathlib import Path

import pytest

from engineshed.scheduler.purge import in_words
from engineshed.scheduler.settings import SchedulerSettings


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setenv("ENGINESHED_STATE_DIR", str(tmp_path))
    for name in ("SERVICE_TOKEN_FILE", "SERVICES_FILE", "REPLICA_KEY_FILE"):
        monkeypatch.setenv(f"ENGINESHED_{name}", str(tmp_path / name))
    return monkeypatch


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("14d", timedelta(days=14)),
        ("P2W", timedelta(days=14)),
        ("36:00:00", timedelta(hours=36)),
        ("2.5", timedelta(seconds=2.5)),
        ("0", timedelta(0)),
    ],
)
def test_a_time_is_read_with_its_unit_or_in_seconds(
    environment: pytest.MonkeyPatch, said: str, meant: timedelta
) -> None:
    environment.setenv("ENGINESHED_PURGE_STOPPED_AFTER", said)

    assert SchedulerSettings().purge_stopped_after == meant


def test_it_is_two_weeks_unless_it_is_set(environment: pytest.MonkeyPatch) -> None:
    assert SchedulerSettings().purge_stopped_after == timedelta(weeks=2)


def test_logs_are_kept_as_the_stream_says_unless_it_is_set(
    environment: pytest.MonkeyPatch,
) -> None:
    assert SchedulerSettings().log_retention is None

    environment.setenv("ENGINESHED_LOG_RETENTION", "30d")

    assert SchedulerSettings().log_retention == timedelta(days=30)


def test_plans_are_kept_for_two_weeks_unless_it_is_set(environment: pytest.MonkeyPatch) -> None:
    assert SchedulerSettings().plans_kept_for == timedelta(weeks=2)

    environment.setenv("ENGINESHED_PLANS_KEPT_FOR", "3600")

    assert SchedulerSettings().plans_kept_for == timedelta(hours=1)


@pytest.mark.parametrize("said", ["-1", "soon", "nan"])
def test_what_is_no_time_is_refused(environment: pytest.MonkeyPatch, said: str) -> None:
    environment.setenv("ENGINESHED_PURGE_STOPPED_AFTER", said)

    with pytest.raises(ValueError, match="purge_stopped_after"):
        SchedulerSettings()


@pytest.mark.parametrize(
    ("time", "words"),
    [
        (timedelta(days=14), "14 days"),
        (timedelta(days=1), "1 day"),
        (timedelta(hours=36), "36 hours"),
        (timedelta(seconds=90), "90 seconds"),
        (timedelta(seconds=0.5), "0.5 seconds"),
    ],
)
def test_it_is_told_in_the_largest_unit_that_fits(time: timedelta, words: str) -> None:
    assert in_words(time) == words
