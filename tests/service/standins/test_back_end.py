"""The stand-in for the tensorrtllm back end, in a real Triton: what only NVIDIA's has."""

import asyncio
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, contextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest
from tests.service.engines import standin
from tests.service.engines.servers import DEADLINE, Client, Server, load
from tests.standins.tensorrt_llm import TEXTS, StandInImage

from engineshed.triton.control import ModelLoadError, load_model, wait_until_live
from engineshed.triton.engine import MODEL_NAME
from engineshed.triton.infer import InferenceError
from engineshed.triton.installation import Installation
from engineshed.triton.launch import Ports, Style, server_command

PROMPT = [40, 41, 42, 43]
METRIC = re.compile(r'^(nv_trt_llm_\w+)\{.*?_type="(\w+)".*\} (\S+)$', re.MULTILINE)


@pytest.fixture(scope="module")
def engine(
    shared_image: StandInImage, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    return standin.build(shared_image, checkpoint, tmp_path_factory.mktemp("engine"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the server, with `repository` in it."""
    folder = tmp_path_factory.mktemp("triton")
    (folder / "repository").mkdir()
    return folder


@pytest.fixture(scope="module")
def empty_server(shared_image: StandInImage, folder: Path) -> Iterator[Server]:
    with standin.stand_in_triton(shared_image, folder) as running:
        yield running


@pytest.fixture
def server(empty_server: Server, image: StandInImage, engine: Path, folder: Path) -> Server:
    """A server with the engine loaded."""
    standin.render(image, engine, folder / "repository")
    load(empty_server)
    return empty_server


@pytest.fixture
async def client(server: Server) -> AsyncIterator[Client]:
    async with Client(server) as connected:
        yield connected


async def metrics(server: Server) -> dict[str, float]:
    url = f"http://127.0.0.1:{server.ports.metrics}/metrics"
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        text = await response.text()
    return {f"{family}/{label}": float(value) for family, label, value in METRIC.findall(text)}


async def until(condition: Callable[[dict[str, float]], bool], server: Server) -> None:
    async with asyncio.timeout(DEADLINE):
        while not condition(await metrics(server)):
            await asyncio.sleep(0.02)


def damage(engine: Path, copy: Path, **changes: Any) -> Path:
    """Copy an engine, with something else in what its first rank was built for."""
    copy.mkdir()
    for file in engine.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    mark, plan = (copy / "rank0.engine").read_text().splitlines()
    text = json.dumps(json.loads(plan) | changes)
    (copy / "rank0.engine").write_text(f"{mark}\n{text}\n")
    return copy


def truncated(engine: Path, copy: Path) -> Path:
    damage(engine, copy)
    (copy / "rank0.engine").write_text("a stand-in")
    return copy


def of_two_ranks(engine: Path, copy: Path) -> Path:
    damage(engine, copy)
    config = json.loads((copy / "config.json").read_text())
    config["pretrained_config"]["mapping"]["world_size"] = 2
    (copy / "config.json").write_text(json.dumps(config))
    return copy


@pytest.mark.parametrize(
    ("damaged", "says", "logs"),
    [
        (truncated, "Failed to deserialize cuda engine", ""),
        (
            lambda engine, copy: damage(engine, copy, compute_capability="8.0"),
            "Failed to deserialize cuda engine",
            "expecting compute 8.0 got compute 9.0, please rebuild",
        ),
        (
            lambda engine, copy: damage(engine, copy, tensorrt_version="10.9.0"),
            "Failed to deserialize cuda engine",
            "expecting library version 10.14.1.48 got 10.9.0",
        ),
        (of_two_ranks, "mpiSize == tp * pp", ""),
        (lambda _, copy: copy, "Both encoder and decoder model paths are empty", ""),
    ],
)
async def test_an_engine_that_does_not_fit_is_refused_in_nvidias_words(
    empty_server: Server,
    image: StandInImage,
    engine: Path,
    folder: Path,
    tmp_path: Path,
    damaged: Callable[[Path, Path], Path],
    says: str,
    logs: str,
) -> None:
    standin.render(image, damaged(engine, tmp_path / "copy"), folder / "repository")

    with pytest.raises(ModelLoadError, match=re.escape(says)):
        await load_model(empty_server.ports.http, MODEL_NAME, DEADLINE)
    assert logs in empty_server.log.read_text()


async def test_loading_fails_as_ordered(
    empty_server: Server, image: StandInImage, engine: Path, folder: Path
) -> None:
    standin.render(image, engine, folder / "repository")
    image.order("load", gpu_oom=True)
    with pytest.raises(ModelLoadError, match=r"modelInstanceState.*out of memory"):
        await load_model(empty_server.ports.http, MODEL_NAME, DEADLINE)

    image.order("load", text=TEXTS["shm_key"])
    with pytest.raises(ModelLoadError, match="Unable to initialize shared memory key"):
        await load_model(empty_server.ports.http, MODEL_NAME, DEADLINE)


async def test_whoever_leaves_is_cancelled(
    client: Client, server: Server, image: StandInImage
) -> None:
    image.order("serve", slow=0.2)
    async with aclosing(client.start(PROMPT, 250)) as responses:
        await anext(responses)
        await until(lambda seen: seen["nv_trt_llm_request_metrics/active"] == 1, server)

    await until(lambda seen: seen["nv_trt_llm_request_metrics/active"] == 0, server)
    image.order("serve")


async def test_a_request_is_stopped_by_one_of_the_same_id(
    client: Client, image: StandInImage
) -> None:
    image.order("serve", slow=0.1)
    pieces = 0
    async with aclosing(client.start(PROMPT, 250, request_id="mine")) as responses:
        await anext(responses)
        async with aclosing(client.start(PROMPT, 1, request_id="mine", stop=True)) as stopping:
            assert [len(response.outputs) async for response in stopping] == [0]
        async for _ in responses:
            pieces += 1

    assert pieces < 200
    with pytest.raises(InferenceError, match="request ID is not provided"):
        await client.answer(PROMPT, 1, stop=True)
    image.order("serve")


async def test_the_prompt_stands_before_an_answer_that_comes_whole(client: Client) -> None:
    [with_prompt] = await client.pieces(PROMPT, 5, streaming=False)
    streamed = await client.answer(PROMPT, 5)

    assert with_prompt == PROMPT + streamed


async def test_more_tokens_than_fit_are_cut_without_an_error(client: Client) -> None:
    assert len(await client.answer(PROMPT, 1000)) == 256 - len(PROMPT)


async def test_without_a_seed_the_same_request_gets_the_same_answer(client: Client) -> None:
    sampled = {"temperature": 1.5, "runtime_top_p": 0.99}
    answers = [await client.answer(PROMPT, 20, **sampled) for _ in range(2)]

    assert answers[0] == answers[1]
    assert answers[0] != await client.answer(PROMPT, 20, runtime_top_k=1)


async def test_log_probabilities_need_something_said_of_the_choice(client: Client) -> None:
    [unsaid] = await client.outputs(PROMPT, 3, streaming=False, return_log_probs=True)
    streamed = await client.outputs(PROMPT, 3, return_log_probs=True, runtime_top_k=1)

    assert "output_log_probs" not in unsaid
    assert [piece["output_log_probs"].size for piece in streamed] == [1, 2, 3]  # of all so far


async def test_a_guide_is_refused_where_guided_decoding_is_not_set_up(client: Client) -> None:
    with pytest.raises(InferenceError, match="GuidedDecoder is not setup"):
        await client.answer(PROMPT, 5, guided_decoding_guide_type="json")


async def test_requests_fail_as_ordered(client: Client, image: StandInImage) -> None:
    image.order("serve", text="CUDA error: an illegal memory access was encountered", once=True)

    with pytest.raises(InferenceError, match="illegal memory access"):
        await client.answer(PROMPT, 1)
    assert len(await client.answer(PROMPT, 1)) == 1


async def test_a_dead_executor_leaves_the_server_healthy_and_answers_nobody(
    client: Client, server: Server, image: StandInImage
) -> None:
    image.order("serve", hang=True)
    waiting = asyncio.ensure_future(client.answer(PROMPT, 5))
    await until(lambda seen: seen["nv_trt_llm_request_metrics/active"] == 1, server)
    before = await metrics(server)
    await wait_until_live(server.ports.http, DEADLINE)
    after = await metrics(server)

    counter = "nv_trt_llm_general_metrics/iteration_counter"
    assert after[counter] == before[counter]
    assert not waiting.done()
    image.order("serve")
    assert len(await waiting) == 5


@contextmanager
def started(image: StandInImage, folder: Path, **style: Any) -> Iterator[Server]:
    """Start a server, or several, in a process group that is killed in the end."""
    installation = Installation(image.server, image.triton / "backends", version="image")
    command = server_command(
        installation,
        folder / "repository",
        Ports.free(),
        installation.backends,
        style=Style(**style),
        env=image.environment(),
    )
    log = folder / "triton.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command.argv, env=command.env, stdout=output, stderr=output, start_new_session=True
        )
    try:
        yield Server(process, command.ports, log)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


async def test_a_server_that_loads_is_killed_as_ordered(
    image: StandInImage, engine: Path, tmp_path: Path
) -> None:
    standin.render(image, engine, tmp_path / "repository")
    image.order("load", crash="SIGSEGV")
    with started(image, tmp_path) as server:
        await wait_until_live(server.ports.http, DEADLINE)
        with pytest.raises(ModelLoadError):
            await load_model(server.ports.http, MODEL_NAME, DEADLINE)
        assert await asyncio.to_thread(server.process.wait, DEADLINE) == -signal.SIGSEGV


async def test_the_first_of_two_ranks_serves_once_both_are_there(
    image: StandInImage, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", image.environment()["PATH"])  # where mpirun is
    engine = standin.build(image, checkpoint, tmp_path, "--tp_size", "2")
    standin.render(image, engine, tmp_path / "repository")
    with started(image, tmp_path, own_interpreter=False, ranks=2) as server:
        await wait_until_live(server.ports.http, DEADLINE)
        async with Client(server) as client:
            assert len(await client.answer(PROMPT, 3)) == 3
        ranks = psutil.Process(server.process.pid).children()
        assert len(ranks) == 2
        ranks[1].kill()
        assert await asyncio.to_thread(server.process.wait, DEADLINE) == 128 + signal.SIGKILL


async def test_the_llm_api_streams_the_text_so_far(
    image: StandInImage, checkpoint: Path, tmp_path: Path
) -> None:
    source = image.app / "all_models" / "llmapi" / MODEL_NAME
    model = tmp_path / "repository" / MODEL_NAME
    shutil.copytree(source, model)
    arguments = {
        "model": str(checkpoint),
        "triton_config": {"max_batch_size": 0, "decoupled": True},
    }
    (model / "1" / "model.yaml").write_text(json.dumps(arguments))
    with started(image, tmp_path, own_interpreter=False, completes_config=True) as server:
        await wait_until_live(server.ports.http, DEADLINE)
        await load_model(server.ports.http, MODEL_NAME, DEADLINE)
        asked = {
            "text_input": "hello",
            "streaming": True,
            "sampling_param_max_tokens": 6,
            "return_finish_reason": True,
        }
        url = f"http://127.0.0.1:{server.ports.http}/v2/models/{MODEL_NAME}/generate_stream"
        async with aiohttp.ClientSession() as session, session.post(url, json=asked) as response:
            lines = (await response.text()).split("\n\n")
    said = [json.loads(line.removeprefix("data: ")) for line in lines if line]

    texts = [each["text_output"] for each in said]
    assert len(texts) == 6
    assert all(later.startswith(earlier) for earlier, later in itertools.pairwise(texts))
    assert [each["finish_reason"] for each in said] == ["None"] * 5 + ["length"]
