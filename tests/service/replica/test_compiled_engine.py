"""The front with engines of TensorRT-LLM: Triton is real, its tensorrtllm back end a stand-in."""

import asyncio
import json
import math
from collections.abc import AsyncIterator, Iterator
from typing import Any

import aiohttp
import openai
import pytest
from tests.standins.tensorrt_llm import StandInImage

from engineshed.api.replica.v1.replica_service_pb2 import GetMetricsRequest

from .compiled import MAX_PROMPT, write_compiled_engine
from .fronts import DEADLINE, KEY, SECRET, Front, events, text_of

CHAT = "/v1/chat/completions"
HELLO: list[Any] = [{"role": "user", "content": "Hello"}]
SCHEMA = {
    "type": "object",
    "properties": {"b": {"type": "integer"}, "a": {"enum": ["yes", "no"]}},
    "required": ["b", "a"],
}


@pytest.fixture(scope="module")
def served(image: StandInImage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    folder = tmp_path_factory.mktemp("compiled")
    engine = write_compiled_engine(image, folder)
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
    assert len(text_of(chunks)) == 40
    assert whole["choices"][0]["finish_reason"] == "length"
    assert whole["usage"] == {"prompt_tokens": 5, "completion_tokens": 40, "total_tokens": 45}
    assert whole["system_fingerprint"] == "fp_" + front.state.engine_digest[7:19]


async def test_seeds_and_penalties_decide_what_comes(front: Front) -> None:
    async def text(**request: Any) -> str:
        body = await front.complete("Hello", max_tokens=30, **request)
        found: str = body["choices"][0]["text"]
        return found

    assert await text(seed=3) == await text(seed=3) != await text(seed=4)
    assert await text() != await text(), "without a seed each request has one of its own"
    assert await text(temperature=0) != await text(temperature=0, frequency_penalty=2)


async def test_a_stop_word_ends_the_generation(front: Front) -> None:
    plain = (await front.complete("Hello", max_tokens=30, temperature=0))["choices"][0]["text"]
    word = plain[5:8]

    body = await front.complete("Hello", max_tokens=300, temperature=0, stop=word)

    assert body["choices"][0]["text"] == plain[: plain.index(word)]
    assert body["choices"][0]["finish_reason"] == "stop"


async def test_log_probabilities_belong_to_the_tokens_that_are_shown(front: Front) -> None:
    plain = (await front.complete("Hello", max_tokens=30, temperature=0))["choices"][0]["text"]
    word = plain[5:8]
    request = {"max_tokens": 30, "temperature": 0, "logprobs": 0, "stop": word}
    whole = (await front.complete("Hello", **request))["choices"][0]
    chunks = await front.stream("Hello", **request)

    told = whole["logprobs"]
    assert "".join(told["tokens"]) == whole["text"] == plain[: plain.index(word)]
    assert all(-50 < each <= 0 for each in told["token_logprobs"])
    assert told["text_offset"] == list(range(len(whole["text"])))
    streamed = [
        token
        for chunk in chunks
        if chunk
        for choice in chunk["choices"]
        for token in (choice["logprobs"] or {"tokens": []})["tokens"]
    ]
    assert streamed == told["tokens"]


async def test_the_official_client_understands_log_probabilities_and_json(front: Front) -> None:
    form: Any = {"name": "answer", "schema": SCHEMA, "strict": True}
    form = {"type": "json_schema", "json_schema": form}
    async with openai.AsyncOpenAI(
        api_key=SECRET, base_url=f"{front.state.http_url}/v1", max_retries=0
    ) as client:
        scored = await client.chat.completions.create(
            model=KEY, messages=HELLO, temperature=0, max_tokens=10, logprobs=True, top_logprobs=0
        )
        stream = await client.chat.completions.create(
            model=KEY, messages=HELLO, temperature=0, max_tokens=10, logprobs=True, stream=True
        )
        streamed = [
            token
            async for chunk in stream
            for token in (chunk.choices[0].logprobs and chunk.choices[0].logprobs.content) or []
        ]
        guided = await client.chat.completions.create(
            model=KEY,
            messages=HELLO,
            response_format=form,
        )
        free = await client.chat.completions.create(
            model=KEY, messages=HELLO, response_format={"type": "json_object"}
        )

    told = scored.choices[0].logprobs
    assert told is not None
    assert told.content is not None
    assert "".join(token.token for token in told.content) == scored.choices[0].message.content
    assert bytes(b for token in told.content for b in token.bytes or []).decode() == (
        scored.choices[0].message.content
    )
    assert streamed == told.content
    assert all(math.isfinite(token.logprob) for token in told.content)
    assert json.loads(guided.choices[0].message.content or "") == {"b": 1, "a": "yes"}
    assert guided.choices[0].finish_reason == "stop"
    assert isinstance(json.loads(free.choices[0].message.content or ""), dict)


async def test_what_the_client_asks_wrongly_of_the_engine_is_the_clients_error(
    front: Front,
) -> None:
    schema = {"name": "x", "schema": {"type": "nothing that there is"}}
    form = {"type": "json_schema", "json_schema": schema}
    status, error = await front.refusal(CHAT, {"messages": HELLO, "response_format": form})
    assert (status, error["code"], error["param"]) == (400, "engine_refused", "response_format")

    long = {"prompt": "x" * (MAX_PROMPT + 1), "max_tokens": 1}
    status, error = await front.refusal("/v1/completions", long)
    assert (status, error["code"]) == (400, "engine_refused")
    assert "exceeds maximum input length" in error["message"]


async def test_a_schema_beyond_the_limit_is_refused(front: Front) -> None:
    schema = {"name": "x", "schema": {"enum": ["x" * 70_000]}}
    form = {"type": "json_schema", "json_schema": schema}
    status, error = await front.refusal(CHAT, {"messages": HELLO, "response_format": form})

    assert (status, error["code"], error["param"]) == (400, "invalid_value", "response_format")
    assert "64 KiB" in error["message"]


async def test_another_failure_is_the_engines(front: Front, orders: StandInImage) -> None:
    orders.order("serve", text="CUDA runtime error in cudaStreamSynchronize")
    status, error = await front.refusal("/v1/completions", {"prompt": "a"})

    assert (status, error["code"]) == (500, "engine_error")
    assert "CUDA" not in error["message"]
    assert "cudaStreamSynchronize" in front.log


async def test_a_client_that_leaves_cancels_its_generation(
    front: Front, orders: StandInImage
) -> None:
    orders.order("serve", slow=0.02)
    async with front.post(CHAT, {"messages": HELLO, "stream": True}) as response:
        stream = events(response)
        await anext(stream)
        await engine_runs(front, 1)

    await engine_runs(front, 0)


async def engine_runs(front: Front, count: int) -> None:
    """Return when the engine works on so many requests, as it says itself now and then."""
    async with asyncio.timeout(DEADLINE):
        while await front.metric("engineshed_replica_engine_requests_running") != count:
            await asyncio.sleep(0.02)


async def test_its_metrics_tell_how_the_engine_does(front: Front) -> None:
    await front.complete("Hello", max_tokens=5)
    async with front.control() as control:
        metrics = await control.GetMetrics(GetMetricsRequest())

    assert front.state.kv_cache_tokens == 6400
    assert "engineshed_replica_kv_cache_tokens 6400.0" in metrics.front
    assert "engineshed_replica_kv_cache_used_ratio" in metrics.front
    assert "engineshed_replica_engine_requests_waiting 0.0" in metrics.front
    for name in ("nv_trt_llm_general_metrics", "nv_inference_request_success"):
        assert name in metrics.triton
        assert await front.metric(name) > 0, "whoever reads the front's own page sees it, too"
