"""The front with a real engine: a small random model, built and served by the torch back end."""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from engineshed.agent.engines.interface import BuildRequest, Checkpoint, Runtime
from engineshed.agent.engines.torch.backend import TorchBackend

from .fronts import CHAT_TEMPLATE, END_ID, KEY, SECRET, Front, byte_tokenizer, text_of

VOCABULARY = 270
AT_ONCE = 32


def write_checkpoint(folder: Path) -> None:
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        bos_token_id=None,
        eos_token_id=END_ID,
        pad_token_id=0,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():  # large weights: clear choices, as a trained model has them
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4)
    model.save_pretrained(folder)
    byte_tokenizer(chat_template=CHAT_TEMPLATE).save_pretrained(folder)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    write_checkpoint(folder)
    return folder


@pytest.fixture(scope="module")
def served(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    folder = tmp_path_factory.mktemp("torch")
    engine, repository = folder / "engine", folder / "repository"
    engine.mkdir()
    backend = TorchBackend(threads=1)
    request = BuildRequest(Checkpoint(checkpoint, "sha256:00"), precision="float32")

    async def begin() -> Front:
        await backend.build(request, engine, lambda *_: None, folder / "build.log")
        backend.render(engine, repository, Runtime())
        return await Front.start(folder / "replica", engine, repository, threads=1).ready()

    front = asyncio.run(begin())
    yield front
    asyncio.run(front.end())


@pytest.fixture
async def front(served: Front) -> AsyncIterator[Front]:
    async with aiohttp.ClientSession() as served.session:
        yield served


def generated(checkpoint: Path, prompts: list[str], max_tokens: int) -> list[tuple[str, int]]:
    """What transformers' generate makes of the prompts: text and number of tokens."""
    torch.set_num_threads(1)  # more only get in each other's way with so small a model
    model: Any = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    tokenizer: Any = AutoTokenizer.from_pretrained(checkpoint)
    answers = []
    for prompt in prompts:
        ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
        output = model.generate(ids, max_new_tokens=max_tokens, do_sample=False)
        new = output[0, ids.shape[1] :].tolist()
        answers.append((tokenizer.decode(new, skip_special_tokens=True), len(new)))
    return answers


def log_probabilities(checkpoint: Path, prompt: str, max_tokens: int) -> list[float]:
    """Those of the tokens that transformers' generate continues a prompt with."""
    model: Any = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    ids = AutoTokenizer.from_pretrained(checkpoint)(prompt, return_tensors="pt")["input_ids"]
    output = model.generate(ids, max_new_tokens=max_tokens, do_sample=False)
    with torch.no_grad():
        scores = model(output).logits[0].log_softmax(-1)
    length = ids.shape[1]
    return [
        float(scores[position - 1, output[0, position]])
        for position in range(length, output.shape[1])
    ]


async def test_many_at_once_get_token_for_token_what_generate_gives(
    front: Front, checkpoint: Path
) -> None:
    letters = random.Random(3)
    prompts = [
        "".join(chr(letters.randrange(32, 1200)) for _ in range(letters.randrange(1, 60)))
        for _ in range(AT_ONCE)
    ]
    request = {"max_tokens": 48, "temperature": 0}
    options = {"stream_options": {"include_usage": True}}

    expected = await asyncio.to_thread(generated, checkpoint, prompts, 48)
    streams = await asyncio.gather(*(front.stream(each, **request, **options) for each in prompts))

    seen = [(text_of(chunks), chunks[-2]["usage"]["completion_tokens"]) for chunks in streams]
    assert seen == expected
    whole = await front.complete(prompts, **request)
    assert [choice["text"] for choice in whole["choices"]] == [text for text, _ in expected]


async def test_a_seed_gives_the_same_text_whatever_runs_beside_it(front: Front) -> None:
    request = {"max_tokens": 30, "temperature": 1.3, "top_p": 0.9, "seed": -5, "n": 2}

    alone = await front.complete("Once", **request)
    among = await asyncio.gather(
        front.complete("Once", **request), *(front.complete("x", seed=i) for i in range(6))
    )

    assert alone["choices"] == among[0]["choices"]
    assert alone["choices"][0]["text"] != alone["choices"][1]["text"]


async def test_penalties_are_honoured(front: Front) -> None:
    request = {"prompt": "aaaa", "max_tokens": 60, "temperature": 0}
    plain = await front.complete(**request)
    varied = await front.complete(**request, presence_penalty=2, frequency_penalty=2)

    assert plain["choices"][0]["text"] != varied["choices"][0]["text"]


async def test_log_probabilities_are_those_of_the_answer(front: Front, checkpoint: Path) -> None:
    request = {"max_tokens": 24, "temperature": 0, "logprobs": 0}
    whole = (await front.complete("Grüße", **request))["choices"][0]
    chunks = await front.stream("Grüße", **request)

    told = whole["logprobs"]
    streamed = [chunk["choices"][0]["logprobs"] for chunk in chunks if chunk]
    assert [x for each in streamed if each for x in each["tokens"]] == told["tokens"]
    expected = await asyncio.to_thread(log_probabilities, checkpoint, "Grüße", 24)
    assert told["token_logprobs"] == pytest.approx(expected[: len(told["tokens"])], abs=1e-3)
    assert len(told["tokens"]) >= len(expected) - 1, "all but an end token are shown"


async def test_an_answer_can_be_held_to_a_schema(front: Front) -> None:
    schema = {
        "type": "object",
        "properties": {"b": {"enum": ["yes", "no"]}, "a": {"type": "boolean"}},
        "required": ["b", "a"],
        "additionalProperties": False,
    }
    body = {
        "messages": [{"role": "user", "content": "Hi"}],
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}},
        "max_tokens": 300,
        "temperature": 0,
    }
    async with front.post("/v1/chat/completions", body) as response:
        choice = (await response.json())["choices"][0]

    assert choice["finish_reason"] == "stop"
    assert list(json.loads(choice["message"]["content"])) == ["b", "a"]


async def test_a_schema_that_makes_no_sense_is_the_callers_error(front: Front) -> None:
    wrong = {"name": "x", "schema": {"type": "nothing that there is"}}
    body = {
        "messages": [{"role": "user", "content": "Hi"}],
        "response_format": {"type": "json_schema", "json_schema": wrong},
    }
    status, error = await front.refusal("/v1/chat/completions", body)

    assert (status, error["code"], error["param"]) == (400, "engine_refused", "response_format")


async def test_the_official_client_understands_it(front: Front) -> None:
    async with openai.AsyncOpenAI(
        api_key=SECRET, base_url=f"{front.state.http_url}/v1", max_retries=0
    ) as client:
        messages: list[Any] = [{"role": "user", "content": "Hi"}]
        whole = await client.chat.completions.create(
            model=KEY, messages=messages, temperature=0, max_tokens=24
        )
        stream = await client.chat.completions.create(
            model=KEY, messages=messages, temperature=0, max_tokens=24, stream=True
        )
        pieces = [chunk.choices[0].delta.content or "" async for chunk in stream]
        with pytest.raises(openai.BadRequestError) as caught:
            await client.chat.completions.create(
                model=KEY, messages=messages, logprobs=True, top_logprobs=2
            )

    assert whole.usage is not None
    assert whole.usage.completion_tokens <= 24
    assert "".join(pieces) == whole.choices[0].message.content
    assert (caught.value.param, caught.value.code) == ("top_logprobs", "unsupported_parameter")
