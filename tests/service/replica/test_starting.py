"""How engines of TensorRT-LLM start, fail to load, die and end. NVIDIA's image is a stand-in."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from tests.standins.tensorrt_llm import TEXTS, StandInImage

from engineshed.api.replica.v1.replica_service_pb2 import Phase
from engineshed.processes import find_by_argument, wait_until_gone
from engineshed.replica.failure import ReplicaFailedError
from engineshed.replica.triton import STALL, TritonServer
from engineshed.triton.engine import EngineManifest

from .compiled import write_compiled_engine
from .conftest import Start
from .fronts import DEADLINE, is_deaf_to

LONG = {"max_tokens": 350, "temperature": 0}


@pytest.fixture(scope="module")
def alone(image: StandInImage, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """An engine of one GPU."""
    return write_compiled_engine(image, tmp_path_factory.mktemp("alone"))


@pytest.fixture(scope="module")
def pair(image: StandInImage, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """An engine of two GPUs."""
    return write_compiled_engine(image, tmp_path_factory.mktemp("pair"), ranks=2)


@pytest.fixture
def here(orders: StandInImage, monkeypatch: pytest.MonkeyPatch) -> StandInImage:
    """This process in the image."""
    for name, value in orders.environment(nvml=False).items():
        monkeypatch.setenv(name, value)
    return orders


async def load_failure(engine: tuple[Path, Path], folder: Path) -> ReplicaFailedError:
    """Why an engine cannot be loaded."""
    manifest = EngineManifest.read(engine[0])
    log = folder / "triton.log"
    server = await TritonServer.start(manifest, engine[1], folder / "triton", log, threads=1)
    try:
        with pytest.raises(ReplicaFailedError) as caught:
            await server.load()
    finally:
        await server.stop()
    return caught.value


@pytest.mark.parametrize(
    ("text", "code", "retryable"),
    [
        ("wrong_gpu", "ENGINE_WRONG_GPU", True),
        ("wrong_version", "ENGINE_VERSION_MISMATCH", True),
        ("deserialize", "ENGINE_VERSION_MISMATCH", True),
        ("gpu_oom", "OOM_AT_LOAD", True),
        ("world_size_leader", "WORLD_SIZE_MISMATCH", False),
        ("shm_pool", "SHM_TOO_SMALL", True),
        ("streaming_not_decoupled", "DECOUPLED_MISMATCH", False),
        ("no_kernel", "UNSUPPORTED_SM", False),
    ],
)
async def test_a_load_that_fails_says_what_to_do(
    here: StandInImage,
    alone: tuple[Path, Path],
    tmp_path: Path,
    text: str,
    code: str,
    retryable: bool,
) -> None:
    here.order("load", text=TEXTS[text])

    failure = await load_failure(alone, tmp_path)

    assert (failure.code, failure.retryable) == (code, retryable)
    assert len(failure.message) > 40, "the cause, and what to do about it"


async def test_an_unknown_failure_is_told_in_tritons_words(
    here: StandInImage, alone: tuple[Path, Path], tmp_path: Path
) -> None:
    here.order("load", text="the stars are wrong")

    failure = await load_failure(alone, tmp_path)

    assert (failure.code, failure.retryable) == ("ENGINE_LOAD_FAILED", True)
    assert "the stars are wrong" in failure.message


async def test_a_template_that_was_rendered_wrongly_and_a_missing_back_end_are_told_apart(
    here: StandInImage, tmp_path: Path
) -> None:
    engine, repository = write_compiled_engine(here, tmp_path)
    config = repository / "tensorrt_llm" / "config.pbtxt"
    sound = config.read_text()

    config.write_text(sound.replace("max_batch_size: 4", "max_batch_size: ${none}"))
    assert (await load_failure((engine, repository), tmp_path)).code == "RENDER_BUG"
    config.write_text(
        sound.replace('backend: "tensorrtllm"', 'backend: "nothing"').replace(
            'runtime: "model.py"', ""
        )
    )
    assert (await load_failure((engine, repository), tmp_path)).code == "BACKEND_MISSING"


@pytest.mark.parametrize(
    ("order", "code"), [({"oom": True}, "LOAD_OOM_HOST"), ({"crash": "SIGSEGV"}, "CRASH_AT_LOAD")]
)
async def test_a_server_that_dies_while_it_loads_tells_how(
    here: StandInImage, alone: tuple[Path, Path], tmp_path: Path, order: dict[str, Any], code: str
) -> None:
    here.order("load", **order)

    assert (await load_failure(alone, tmp_path)).code == code


async def test_a_load_that_stands_still_is_ended(
    here: StandInImage,
    pair: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    here.order("load", hang=True)
    monkeypatch.setenv(STALL, "2")

    failure = await load_failure(pair, tmp_path)

    assert (failure.code, failure.retryable) == ("LOAD_STALLED", True)
    assert "NCCL" in failure.message
    assert not find_by_argument(f"--model-repository={pair[1]}")


async def test_of_several_processes_one_that_fails_ends_all(
    here: StandInImage, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    here.order("load", gpu_oom=True)

    failure = await load_failure(pair, tmp_path)

    assert (failure.code, failure.retryable) == ("OOM_AT_LOAD", True)
    assert not find_by_argument(f"--model-repository={pair[1]}")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
async def test_an_engine_of_two_gpus_serves_with_two_processes_and_leaves_none_behind(
    start: Start, image: StandInImage, pair: tuple[Path, Path], number: signal.Signals
) -> None:
    front = await (await start(pair, environment=image.environment(nvml=False))).ready()
    family = front.family()
    ranks = find_by_argument(f"--model-repository={pair[1]}")
    assert len(ranks & family) >= 2
    for rank in ranks:
        assert is_deaf_to(signal.SIGTERM, rank.pid), "a host that shuts down sends it to all"

    assert (await front.complete("Hello", max_tokens=5))["usage"]["completion_tokens"] == 5
    front.process.send_signal(number)

    assert await front.exits() == (-number if number == signal.SIGKILL else 0)
    assert await wait_until_gone(family, DEADLINE)
    if number != signal.SIGKILL:
        assert front.state.phase == Phase.PHASE_STOPPED


async def test_when_one_of_two_processes_dies_the_replica_does(
    start: Start, image: StandInImage, pair: tuple[Path, Path]
) -> None:
    front = await (await start(pair, environment=image.environment(nvml=False))).ready()
    family = front.family()
    ranks = find_by_argument(f"--model-repository={pair[1]}")
    youngest = max(ranks & family, key=lambda rank: (rank.start_ticks, rank.pid))

    os.kill(youngest.pid, signal.SIGKILL)

    assert await front.exits() == 1
    assert (front.state.phase, front.state.code) == (Phase.PHASE_FAILED, "TRITON_DIED")
    assert await wait_until_gone(family, DEADLINE)


async def test_an_executor_that_stops_behind_a_triton_that_answers_is_noticed(
    start: Start, orders: StandInImage, alone: tuple[Path, Path]
) -> None:
    environment = orders.environment(nvml=False) | {"ENGINESHED_EXECUTOR_STALL_S": "2"}
    front = await (await start(alone, environment=environment)).ready()
    orders.order("serve", slow=0.02)
    async with front.streaming("Hello", **LONG) as stream:
        orders.order("serve", hang=True)
        *_, last = [event async for event in stream]

    assert last["error"]["code"] == "engine_unavailable"
    assert await front.exits() == 1
    assert (front.state.code, front.state.retryable) == ("EXECUTOR_DEAD", True)
