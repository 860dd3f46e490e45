"""Engines in a real Triton."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import psutil
import pytest

from engineshed.triton.control import ModelLoadError
from engineshed.triton.infer import InferenceError
from engineshed.triton.refusal import Refusal

from .checkpoints import END_ID
from .engines import prompts_of, reference
from .servers import DEADLINE, Client, Server, load, triton


@pytest.fixture(scope="module")
def server(
    engine: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """A Triton with a model that is batched continuously."""
    with triton(engine("llama"), tmp_path_factory.mktemp("triton")) as running:
        load(running)
        yield running


@pytest.fixture
async def client(server: Server) -> AsyncIterator[Client]:
    async with Client(server) as connected:
        yield connected


async def test_thirty_two_at_once_each_get_what_generate_gives_alone(
    client: Client, checkpoint: Callable[[str], Path]
) -> None:
    prompts = prompts_of([3, 40, 7, 90, 17, 1, 60, 25] * 4)
    expected = reference(checkpoint("llama"), prompts, 30)

    answers = await asyncio.gather(
        *(client.answer(prompt, 30, end_id=END_ID) for prompt in prompts)
    )

    assert answers == expected


async def test_pieces_come_as_they_are_made_and_whole_answers_in_one(client: Client) -> None:
    [prompt] = prompts_of([9])
    streamed = await client.pieces(prompt, 100)
    whole = await client.pieces(prompt, 100, streaming=False)

    assert len(streamed) > 5
    assert [[token for piece in streamed for token in piece]] == whole


async def test_the_same_seed_gives_the_same_answer(client: Client) -> None:
    [prompt] = prompts_of([9])
    choice = {"temperature": 1.1, "runtime_top_p": 0.9}
    first, again, other = await asyncio.gather(
        *(client.answer(prompt, 40, **choice, seed=seed) for seed in (5, 5, 6))
    )

    assert first == again != other


async def test_what_cannot_be_honoured_is_refused_and_nobody_else_hears_of_it(
    client: Client,
) -> None:
    first, second = prompts_of([9, 12])
    undisturbed = await client.answer(first, 150)
    beside = asyncio.create_task(client.answer(first, 150))

    with pytest.raises(InferenceError, match="max_context of 256") as too_long:
        await client.answer(second, 250)
    with pytest.raises(InferenceError, match="temperature -1") as invalid:
        await client.answer(second, 5, temperature=-1.0)
    with pytest.raises(InferenceError, match="len_penalty"):
        await client.answer(second, 5, len_penalty=2.0)

    assert too_long.value.refusal is invalid.value.refusal is Refusal.INVALID_ARGUMENT
    assert await beside == undisturbed


async def test_more_than_it_admits_are_turned_away(client: Client) -> None:
    prompts = prompts_of([5] * 40)
    answers = await asyncio.gather(
        *(client.answer(prompt, 200) for prompt in prompts), return_exceptions=True
    )

    refused = [answer for answer in answers if isinstance(answer, InferenceError)]
    assert {error.refusal for error in refused} == {Refusal.UNAVAILABLE}
    assert len(refused) <= 8
    assert sum(isinstance(answer, list) and len(answer) == 200 for answer in answers) >= 32


async def test_whoever_leaves_gives_the_place_to_the_next(client: Client) -> None:
    prompts = prompts_of([5] * 32)
    left = [client.start(prompt, 250) for prompt in prompts]
    for each in left:
        await anext(each)
    for each in left:
        await each.aclose()

    async def ask_until_admitted(prompt: list[int]) -> list[int]:
        while True:
            try:
                return await client.answer(prompt, 5)
            except InferenceError as error:
                if error.refusal is not Refusal.UNAVAILABLE:
                    raise
                await asyncio.sleep(0.01)

    async with asyncio.timeout(DEADLINE):
        answers = await asyncio.gather(*(ask_until_admitted(prompt) for prompt in prompts))

    assert [len(answer) for answer in answers] == [5] * 32


def test_it_listens_on_loopback_only(server: Server) -> None:
    listening = [
        connection.laddr
        for connection in psutil.Process(server.process.pid).net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]

    assert {address.ip.removeprefix("::ffff:") for address in listening} == {"127.0.0.1"}
    assert {address.port for address in listening} == {
        server.ports.http,
        server.ports.grpc,
        server.ports.metrics,
    }


def test_what_cannot_be_batched_is_served_as_well_and_a_load_that_fails_says_why(
    engine: Callable[[str], Path], checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    prompts = prompts_of([3, 40, 7, 90] * 4)
    expected = reference(checkpoint("gptj"), prompts, 12)
    engine_link = tmp_path / "engine"

    async def ask(server: Server) -> list[list[int]]:
        async with Client(server) as client:
            return await asyncio.gather(
                *(client.answer(prompt, 12, end_id=END_ID) for prompt in prompts)
            )

    with triton(engine_link, tmp_path) as server:
        with pytest.raises(ModelLoadError, match=r"engine\.json cannot be read"):
            load(server)
        engine_link.symlink_to(engine("gptj"))
        load(server)

        assert asyncio.run(ask(server)) == expected
