"""Engines in a real Triton."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import aiohttp
import numpy as np
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from engineshed.triton.control import ModelLoadError
from engineshed.triton.infer import InferenceError
from engineshed.triton.refusal import Refusal

from .checkpoints import END_ID, byte_tokenizer
from .engines import log_probabilities, prompts_of, reference
from .servers import DEADLINE, Client, Server, load, triton

ITERATIONS = 'nv_trt_llm_general_metrics{general_type="iteration_counter",model="tensorrt_llm"}'
ACTIVE = 'nv_trt_llm_request_metrics{model="tensorrt_llm",request_type="active"}'


@pytest.fixture(scope="module")
def server(
    engine: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """A Triton with a model that is batched continuously."""
    with triton(engine("llama:bytes"), tmp_path_factory.mktemp("triton")) as running:
        load(running)
        yield running


@pytest.fixture
async def client(server: Server) -> AsyncIterator[Client]:
    async with Client(server) as connected:
        yield connected


async def metrics_that(
    server: Server, suit: Callable[[dict[str, float]], bool]
) -> dict[str, float]:
    """Return Triton's metrics by name and labels but the version, once they suit."""
    async with asyncio.timeout(DEADLINE), aiohttp.ClientSession() as http:
        while True:
            async with http.get(f"http://127.0.0.1:{server.ports.metrics}/metrics") as answer:
                families = text_string_to_metric_families(await answer.text())
            seen = {}
            for sample in (sample for family in families for sample in family.samples):
                labels = {k: v for k, v in sorted(sample.labels.items()) if k != "version"}
                pairs = ",".join(f'{name}="{value}"' for name, value in labels.items())
                seen[f"{sample.name}{{{pairs}}}"] = sample.value
            if suit(seen):
                return seen
            await asyncio.sleep(0.02)


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


async def test_log_probabilities_come_with_the_tokens_for_who_asks_for_them(
    client: Client, checkpoint: Callable[[str], Path]
) -> None:
    [prompt] = prompts_of([9])
    choice = {"temperature": 1.1, "seed": 5}
    pieces = await client.outputs(prompt, 60, **choice, return_log_probs=True)
    [whole] = await client.outputs(prompt, 60, **choice, return_log_probs=True, streaming=False)
    [unasked] = await client.outputs(prompt, 60, **choice, streaming=False)

    tokens, said = whole["output_ids"].ravel().tolist(), whole["output_log_probs"]
    expected = log_probabilities(checkpoint("llama"), prompt, tokens)
    assert said.shape == (1, 1, 60)
    assert said.ravel().tolist() == pytest.approx(expected, abs=1e-4)
    assert whole["cum_log_probs"].shape == (1, 1)
    assert whole["cum_log_probs"].item() == pytest.approx(sum(expected), abs=1e-3)
    assert len(pieces) > 5
    assert np.concatenate([each["output_log_probs"] for each in pieces], axis=2) == pytest.approx(
        said, abs=1e-5
    )
    assert pieces[-1]["cum_log_probs"].item() == pytest.approx(sum(expected), abs=1e-3)
    assert "output_log_probs" not in unasked


async def test_an_answer_is_what_its_schema_says_and_a_schema_that_is_none_is_refused(
    client: Client,
) -> None:
    [prompt] = prompts_of([9])
    guide = {"guided_decoding_guide_type": "json_schema", "temperature": 1.0, "seed": 3}
    schema = '{"type": "array", "items": {"enum": [true, 7]}, "minItems": 2, "maxItems": 3}'

    tokens = await client.answer(prompt, 240, **guide, guided_decoding_guide=schema)
    with pytest.raises(InferenceError, match="objeckt") as refused:
        await client.answer(prompt, 9, **guide, guided_decoding_guide='{"type": "objeckt"}')

    said = json.loads(byte_tokenizer().decode(tokens, skip_special_tokens=True))
    assert 2 <= len(said) <= 3
    assert set(said) <= {True, 7}
    assert refused.value.refusal is Refusal.INVALID_ARGUMENT


async def test_its_metrics_have_the_names_of_nvidias_back_end(
    server: Server, client: Client
) -> None:
    before = await metrics_that(server, lambda seen: ITERATIONS in seen)
    await client.answer(prompts_of([9])[0], 50)
    after = await metrics_that(
        server, lambda seen: seen[ITERATIONS] >= before[ITERATIONS] + 50 and seen[ACTIVE] == 0
    )

    assert after['nv_trt_llm_request_metrics{model="tensorrt_llm",request_type="max"}'] == 32
    blocks = {
        kind: after[
            f'nv_trt_llm_kv_cache_block_metrics{{kv_cache_block_type="{kind}",'
            'model="tensorrt_llm"}'
        ]
        for kind in ("max", "free", "used", "tokens_per", "fraction")
    }
    assert blocks["used"] + blocks["free"] == blocks["max"] > 0
    assert blocks["max"] * blocks["tokens_per"] >= 32 * 256
    assert 0 <= blocks["fraction"] <= 1


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
