"""What GPUs are used for, with a stand-in for the driver."""

import json

import pytest
from tests.service.agent.stand_in_driver import pynvml as stand_in

from engineshed import gpus
from engineshed.gpus import Usage, open_driver, usage_of


@pytest.fixture(autouse=True)
def driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver with two GPUs, of which one is lost."""
    monkeypatch.setattr(gpus, "pynvml", stand_in)
    found = [{"uuid": "GPU-a", "used": 3 << 30, "gpu": 75}, {"uuid": "GPU-b", "answers": False}]
    monkeypatch.setenv("STAND_IN_GPUS", json.dumps(found))


def test_a_gpu_says_what_is_used_of_what_programs_may_use() -> None:
    assert open_driver()
    assert usage_of("GPU-a") == Usage(3 << 30, 150109880320, 0.75)


def test_a_gpu_that_is_lost_says_nothing() -> None:
    assert usage_of("GPU-b") is None


def test_there_is_no_driver_where_its_library_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STAND_IN_GPUS")
    assert not open_driver()


def test_a_driver_that_does_not_answer_is_as_good_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAND_IN_DRIVER_FAULT", "NVMLError_LibRmVersionMismatch")
    assert not open_driver()
