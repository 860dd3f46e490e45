"""A replica's GPUs when their driver does not behave."""

import threading
from collections.abc import Iterator

import pytest

from engineshed.gpus import Usage
from engineshed.replica import gpu_metrics
from engineshed.replica.gpu_metrics import GpuMetrics

USED = Usage(memory_bytes=1, usable_bytes=2, utilization=0.5)


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """While it is cleared the driver hangs."""
    event = threading.Event()
    event.set()

    def usage_of(uuid: str) -> Usage:
        event.wait()
        return USED

    monkeypatch.setattr(gpu_metrics, "open_driver", lambda: True)
    monkeypatch.setattr(gpu_metrics, "usage_of", usage_of)
    yield event
    event.set()


async def test_gpus_of_a_driver_that_hangs_are_left_out_until_it_answers(
    answers: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics = GpuMetrics("GPU-a,GPU-b")
    await metrics.look()
    assert len(metrics.collect()) == 3

    answers.clear()
    with monkeypatch.context() as patch:
        patch.setattr(gpu_metrics, "_PATIENCE_SECONDS", 0.05)
        await metrics.look()
    assert metrics.collect() == []

    answers.set()
    await metrics.look()
    assert len(metrics.collect()) == 3


@pytest.mark.parametrize("visible", ["", "0,1", "NoDevFiles"])
async def test_the_driver_is_not_asked_for_gpus_without_a_uuid(
    visible: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def open_driver() -> bool:
        raise AssertionError("it was asked")

    monkeypatch.setattr(gpu_metrics, "open_driver", open_driver)
    metrics = GpuMetrics(visible)

    await metrics.look()

    assert metrics.collect() == []
