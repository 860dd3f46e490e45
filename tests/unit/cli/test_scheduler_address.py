"""Where `shed` finds the scheduler when it asks it itself."""

import json
from pathlib import Path

import pytest

from engineshed.cli.client import ApiError
from engineshed.cli.scheduler import find_address


@pytest.fixture(autouse=True)
def state(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.delenv("ENGINESHED_SCHEDULER_ADDRESS", raising=False)
    monkeypatch.setenv("ENGINESHED_STATE_DIR", str(tmp_path))
    return tmp_path


def test_it_is_that_of_the_stack_in_the_state_directory(state: Path) -> None:
    (state / "ports.json").write_text(json.dumps({"catalog": 7001, "scheduler": 7102}))

    assert find_address() == "127.0.0.1:7102"


def test_it_is_another_one_if_that_is_said(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (state / "ports.json").write_text(json.dumps({"scheduler": 7102}))
    monkeypatch.setenv("ENGINESHED_SCHEDULER_ADDRESS", "ipv4:10.0.0.1:7002,10.0.0.2:7002")

    assert find_address() == "ipv4:10.0.0.1:7002,10.0.0.2:7002"


def test_where_there_is_none_it_is_said_what_to_set() -> None:
    with pytest.raises(ApiError, match="Set ENGINESHED_SCHEDULER_ADDRESS"):
        find_address()
