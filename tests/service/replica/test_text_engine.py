"""The front with an engine of the LLM API, which takes and gives text; it is a stand-in."""

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from typing import Any

import aiohttp
import openai
import pytest
from tests.standins.tensorrt_llm import StandInImage

from engineshed.processes import wait_until_gone

from .compiled import write_text_engine
from .fronts import DEADLINE, KEY, SECRET, Front, text_of

CHAT = "/v1/chat/completions"
HELLO: list[Any] = [{"role": "user", "content": "Hello"}]


@pytest.fixture(scope="module")
def served(image: StandInImage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    folder = tmp_path_factory.mktemp("text")
    engine = write_text_engine(image, folder)
    front = Front.start(folder / "replica", *engine, environment=image.environment(nvml=False))
    asyncio.run(front.ready())
    yield front
    asyncio.run(front.end())


@pytest.fixture
async def front(served: Front) -> AsyncIterator[Front]:
    async with aiohttp.ClientSession() as served.session:
        yield served


async def test_a_stream_has_the_same_text_as_a_whole_answer(front: Front) -> None:
    request = {"max_tokens": 40, "temperature": 0}
    whole = await front.complete("Hello", **request)
    chunks = await front.stream("Hello", **request)

    assert text_of(chunks) == whole["choices"][0]["text"]
    assert len([chunk for chunk in chunks if chunk]) > 5, "it came in pieces"
    assert whole["choices"][0]["finish_reason"] == "length"
    assert whole["usage"] == {"prompt_tokens": 5, "completion_tokens": 40, "total_tokens": 45}


async def test_a_chat_goes_through_the_template_and_a_stop_word_ends_it(front: Front) -> None:
    async with openai.AsyncOpenAI(
        api_key=SECRET, base_url=f"{front.state.http_url}/v1", max_retries=0
    ) as client:
        request: Any = {"model": KEY, "messages": HELLO, "max_tokens": 30, "temperature": 0}
        plain = await client.chat.completions.create(**request)
        text = plain.choices[0].message.content or ""
        word = text[5:8]
        stopped = await client.chat.completions.create(**request, stop=word)

    assert plain.usage is not None
    assert plain.usage.prompt_tokens == len("Hello") + 2
    assert stopped.choices[0].message.content == text[: text.index(word)]
    assert stopped.choices[0].finish_reason == "stop"


async def test_a_seed_repeats_an_answer(front: Front) -> None:
    first = await front.complete("x", max_tokens=20, seed=7, n=2)
    second = await front.complete("x", max_tokens=20, seed=7, n=2)

    assert first["choices"] == second["choices"]
    assert first["choices"][0]["text"] != first["choices"][1]["text"]


@pytest.mark.parametrize(
    ("param", "change"),
    [
        ("logprobs", {"logprobs": True}),
        ("response_format", {"response_format": {"type": "json_object"}}),
        ("min_tokens", {"min_tokens": 2}),
        ("logit_bias", {"logit_bias": {"1": 2}}),
    ],
)
async def test_what_it_cannot_do_is_refused_by_name(
    front: Front, param: str, change: dict[str, Any]
) -> None:
    status, error = await front.refusal(CHAT, {"messages": HELLO, **change})

    assert (status, error["code"], error["param"]) == (400, "unsupported_parameter", param)


async def test_a_prompt_of_token_ids_is_refused(front: Front) -> None:
    status, error = await front.refusal("/v1/completions", {"prompt": [104, 105]})

    assert (status, error["code"], error["param"]) == (400, "unsupported_parameter", "prompt")


async def test_what_the_engine_fails_at_is_its_failure(front: Front, orders: StandInImage) -> None:
    orders.order("serve", text="no more memory")
    status, error = await front.refusal("/v1/completions", {"prompt": "a"})

    assert (status, error["code"]) == (500, "engine_error")
    assert "no more memory" in front.log


async def test_a_client_that_leaves_frees_its_place(front: Front, orders: StandInImage) -> None:
    orders.order("serve", slow=0.05)
    async with front.streaming("Hello", max_tokens=300, temperature=0):
        await front.in_flight(1)

    await front.in_flight(0)
    orders.order("serve", slow=0)
    assert (await front.complete("a", max_tokens=2, temperature=0))["choices"][0]["text"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
async def test_it_leaves_nothing_behind(
    image: StandInImage, tmp_path_factory: Any, number: signal.Signals
) -> None:
    folder = tmp_path_factory.mktemp("ending")
    engine = write_text_engine(image, folder)
    front = Front.start(folder / "replica", *engine, environment=image.environment(nvml=False))
    await front.ready()
    family = front.family()

    front.process.send_signal(number)

    assert await front.exits() == (0 if number == signal.SIGINT else -number)
    assert await wait_until_gone(family, DEADLINE)
