"""A step of a build stands still, or it does not: told from what is seen of it."""

from collections.abc import Iterable

import pytest

from engineshed.agent.engines.interface import EngineBuildError
from engineshed.agent.engines.tensorrt_llm.host import Room, check_room
from engineshed.agent.engines.tensorrt_llm.watch import Sample, Watch, share

STALL = 100.0
GB = 10**9


def first_stall(samples: Iterable[tuple[float, int, int, float]]) -> tuple[float, str] | None:
    """Return when a watch gives up and why; samples are (at, log, written, CPU)."""
    samples = iter(samples)
    watch = Watch(Sample(*next(samples)), STALL)
    for sample in samples:
        if why := watch.see(Sample(*sample)):
            return sample[0], why
    return None


def test_what_does_nothing_is_given_up_after_so_long() -> None:
    stalled = first_stall((float(at), 0, 0, 0.0) for at in range(1000))

    assert stalled is not None
    assert stalled[0] == STALL
    assert "neither logged nor wrote nor computed" in stalled[1]


@pytest.mark.parametrize("what", ["log", "bytes", "cpu"])
def test_one_sign_of_life_is_enough(what: str) -> None:
    def sample(at: int) -> tuple[float, int, int, float]:
        life = at // 90
        return (float(at), life * (what == "log"), life * (what == "bytes"), life * (what == "cpu"))

    # A second of CPU at once counts as life at that moment.
    assert first_stall(sample(at) for at in range(350)) is None


def test_what_computes_without_a_word_is_given_up_after_four_times_as_long() -> None:
    stalled = first_stall((float(at), 0, 0, float(at)) for at in range(1000))

    assert stalled is not None
    assert stalled[0] == 4 * STALL
    assert "without a word" in stalled[1]


def test_a_process_that_only_wakes_now_and_then_does_nothing() -> None:
    stalled = first_stall((float(at), 0, 0, at * 0.01) for at in range(1000))

    assert stalled is not None
    assert stalled[0] == STALL


def test_cpu_that_ends_with_a_process_is_no_sign_of_life() -> None:
    stalled = first_stall((float(at), 0, 0, 1000.0 - at) for at in range(1000))

    assert stalled is not None
    assert stalled[0] == STALL


def test_progress_is_what_is_there_and_never_whole_before_the_end() -> None:
    assert share(50, 100) == 0.5
    assert share(500, 100) == 0.99
    assert share(5, 0) == 0.0


def test_a_host_with_enough_of_everything_gives_no_concern() -> None:
    assert check_room(Room(48 * GB, 40 * GB, 2 * GB), 16 * GB, 2) == ""


def test_little_memory_is_a_concern_and_less_than_the_weights_a_refusal() -> None:
    assert "16.0 GB" in check_room(Room(20 * GB, 40 * GB, 2 * GB), 16 * GB, 1)
    with pytest.raises(EngineBuildError) as error:
        check_room(Room(15 * GB, 40 * GB, 2 * GB), 16 * GB, 1)
    assert (error.value.code, error.value.retryable) == ("NOT_ENOUGH_HOST_MEMORY", True)


@pytest.mark.parametrize(
    ("room", "gpus", "code"),
    [
        (Room(48 * GB, 39 * GB, 2 * GB), 1, "DISK_FULL"),
        (Room(48 * GB, 40 * GB, GB // 2), 2, "SHM_TOO_SMALL"),
    ],
)
def test_without_room_nothing_is_begun(room: Room, gpus: int, code: str) -> None:
    with pytest.raises(EngineBuildError) as error:
        check_room(room, 16 * GB, gpus)
    assert (error.value.code, error.value.retryable) == (code, True)


def test_one_gpu_needs_no_shared_memory() -> None:
    assert check_room(Room(48 * GB, 40 * GB, 0), 16 * GB, 1) == ""
