"""Answers over the OpenAI API, compared with what transformers itself says."""

import asyncio
import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from tests.e2e.checkpoints import Reference
from tests.e2e.stack import Json, Stack, wait_for

QUESTION = "What is an engine shed?"


@pytest.fixture
def client(stack: Stack) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{stack.url}/v1", api_key=stack.token, max_retries=0)


def ask(client: openai.OpenAI, endpoint: Json, question: str = QUESTION, **more: Any) -> Any:
    return client.chat.completions.create(
        model=endpoint["routing_key"],
        messages=[{"role": "user", "content": question}],
        **{"temperature": 0, **more},
    )


def test_the_first_question_gets_a_readable_right_answer(client, sample) -> None:
    answer = ask(client, sample)

    choice = answer.choices[0]
    assert "locomotive" in choice.message.content
    assert choice.finish_reason == "stop"
    assert answer.system_fingerprint.startswith("fp_")


def test_greedy_answers_and_usage_are_those_of_transformers(
    client, sample, sample_reference
) -> None:
    prompt = sample_reference.prompt(QUESTION)
    text, tokens = sample_reference.answer(prompt, 200)

    answer = ask(client, sample)

    assert answer.choices[0].message.content == text
    assert answer.usage.prompt_tokens == len(prompt)
    assert answer.usage.completion_tokens == len(tokens)
    assert answer.usage.total_tokens == len(prompt) + len(tokens)


def test_a_foreign_model_answers_as_transformers_does_token_for_token(
    client, foreign, foreign_directory: Path
) -> None:
    reference = Reference(foreign_directory)
    for question in ("hello", "Größe? 日本語 🚂", "x" * 40):
        text, tokens = reference.answer(reference.prompt(question), 40)

        answer = ask(client, foreign, question, max_tokens=40)

        assert answer.choices[0].message.content == text
        assert answer.usage.completion_tokens == len(tokens)


def test_a_streams_pieces_joined_are_the_whole_answer_also_across_characters(
    client, foreign
) -> None:
    for seed in range(6):
        options: dict[str, Any] = {"max_tokens": 60, "temperature": 1.5, "seed": seed}
        whole = ask(client, foreign, "日本語 🚂", **options).choices[0].message.content
        stream = ask(client, foreign, "日本語 🚂", stream=True, **options)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == whole


def test_a_stream_ends_with_usage_when_asked_for(client, sample) -> None:
    whole = ask(client, sample)

    chunks = list(ask(client, sample, stream=True, stream_options={"include_usage": True}))

    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage
    assert all(chunk.usage is None for chunk in chunks[:-1])
    reasons = [chunk.choices[0].finish_reason for chunk in chunks[:-1]]
    assert [reason for reason in reasons if reason] == ["stop"]


def test_thirty_two_requests_at_once_each_get_their_own_right_answer(
    stack, foreign, foreign_directory: Path
) -> None:
    reference = Reference(foreign_directory)
    questions = [f"question number {number}" for number in range(32)]
    expected = [reference.answer(reference.prompt(text), 24)[0] for text in questions]

    async def all_at_once() -> list[str]:
        async with openai.AsyncOpenAI(
            base_url=f"{stack.url}/v1", api_key=stack.token, max_retries=0
        ) as client:
            answers = await asyncio.gather(
                *(
                    client.chat.completions.create(
                        model=foreign["routing_key"],
                        messages=[{"role": "user", "content": text}],
                        temperature=0,
                        max_tokens=24,
                    )
                    for text in questions
                )
            )
        return [answer.choices[0].message.content or "" for answer in answers]

    assert asyncio.run(all_at_once()) == expected


def test_the_same_seed_gives_the_same_text_and_another_one_another(client, foreign) -> None:
    def text(seed: int) -> Any:
        return (
            ask(client, foreign, temperature=1, seed=seed, max_tokens=30).choices[0].message.content
        )

    assert text(7) == text(7)
    assert len({text(seed) for seed in range(4)}) > 1


def test_stop_words_end_the_answer_before_them(client, sample) -> None:
    whole = ask(client, sample).choices[0].message.content
    word = whole.split()[3]

    answer = ask(client, sample, stop=[word])

    assert answer.choices[0].message.content == whole[: whole.index(word)]
    assert answer.choices[0].finish_reason == "stop"


def test_max_tokens_cuts_the_answer_and_says_so(client, sample) -> None:
    limits: list[dict[str, Any]] = [{"max_tokens": 3}, {"max_completion_tokens": 3}]
    for limit in limits:
        answer = ask(client, sample, **limit)
        assert answer.choices[0].finish_reason == "length"
        assert answer.usage.completion_tokens == 3


def test_n_gives_so_many_choices(client, foreign) -> None:
    answer = ask(client, foreign, n=3, temperature=1.0, seed=1, max_tokens=8)

    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert answer.usage.completion_tokens <= 24


def test_completions_take_text_and_models_are_listed(client, sample, sample_reference) -> None:
    prompt = "An engine shed"
    ids = sample_reference.tokenizer(prompt).input_ids
    text, _ = sample_reference.answer(ids, 12)

    answer = client.completions.create(
        model=sample["routing_key"], prompt=prompt, max_tokens=12, temperature=0
    )

    assert answer.choices[0].text == text
    assert sample["routing_key"] in [model.id for model in client.models.list()]
    assert client.models.retrieve(sample["routing_key"]).id == sample["routing_key"]


def schema_of(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "it", "schema": schema}}


def test_an_answer_is_held_to_a_schema_and_told_with_its_log_probabilities(client, sample) -> None:
    wanted = {"type": "object", "properties": {"yes": {"type": "boolean"}}, "required": ["yes"]}
    closed = wanted | {"additionalProperties": False}

    answer = ask(
        client, sample, response_format=schema_of(closed), logprobs=True, max_tokens=200
    ).choices[0]

    assert set(json.loads(answer.message.content)) == {"yes"}
    assert answer.logprobs is not None
    assert "".join(token.token for token in answer.logprobs.content) == answer.message.content
    assert all(token.logprob <= 0 for token in answer.logprobs.content)


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"logprobs": True, "top_logprobs": 3}, "top_logprobs"),
        ({"frequency_penalty": 99}, "frequency_penalty"),
        ({"temperature": "hot"}, "temperature"),
        ({"n": 0}, "n"),
        ({"stop": ["a"] * 9}, "stop"),
        ({"extra_body": {"no_such_thing": 1}}, "no_such_thing"),
        ({"response_format": schema_of({"type": "nonsense"})}, "response_format"),
        ({"max_tokens": -1}, "max_tokens"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(client, sample, more, param) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, sample, **more)
    assert caught.value.param is not None
    assert caught.value.param.split(".")[0].startswith(param)
    assert isinstance(caught.value.code, str)


def test_neutral_parameters_are_accepted(client, sample) -> None:
    answer = ask(
        client, sample, frequency_penalty=0, presence_penalty=0, user="u", logprobs=False, n=1
    )
    assert answer.choices[0].finish_reason == "stop"


def test_a_prompt_longer_than_the_context_is_refused_with_the_numbers(client, foreign) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, foreign, "word " * 500)
    assert caught.value.code == "context_length_exceeded"
    assert "256" in str(caught.value)


@pytest.mark.parametrize("body", [b"{", b"[]", b"null", b'{"messages": []}', b"\xff"])
def test_malformed_bodies_are_refused(stack, body) -> None:
    with stack.client() as client:
        answer = client.post(
            "/v1/chat/completions", content=body, headers={"content-type": "application/json"}
        )
    assert answer.status_code == 400
    assert isinstance(answer.json()["error"]["code"], str)


def test_a_huge_body_is_refused(stack) -> None:
    with stack.client() as client:
        answer = client.post("/v1/chat/completions", content=b" " * (17 * 1024 * 1024))
    assert answer.status_code == 413


def test_unknown_models_and_tokens_are_refused(stack, client, sample) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="no-such-x1y2z3", messages=[])
    assert caught.value.code == "endpoint_not_found"
    stranger = openai.OpenAI(base_url=f"{stack.url}/v1", api_key="es_wrong", max_retries=0)
    with pytest.raises(openai.AuthenticationError) as refused:
        ask(stranger, sample)
    assert refused.value.code == "invalid_api_key"


def test_an_endpoint_answers_under_its_own_host_name(stack, sample) -> None:
    host = f"{sample['routing_key']}.localhost:{stack.port}"
    assert sample["url"] == f"http://{host}"
    with stack.client() as client:
        for path in ("/ping", "/health"):
            assert client.get(path, headers={"host": host}).status_code == 200
        answer = client.post(
            "/v1/chat/completions",
            headers={"host": host},
            json={"messages": [{"role": "user", "content": QUESTION}], "max_tokens": 2},
        )
        assert answer.status_code == 200
        unknown = {"host": f"nothing-aaaaaa.localhost:{stack.port}"}
        assert client.get("/ping", headers=unknown).status_code == 404


def test_a_client_that_leaves_frees_its_slot_at_once(stack, foreign) -> None:
    body = {
        "model": foreign["routing_key"],
        "messages": [{"role": "user", "content": "go on"}],
        "temperature": 1.0,
        "stream": True,
    }

    def leave() -> None:
        with (
            stack.client() as client,
            client.stream("POST", "/v1/chat/completions", json=body) as answer,
        ):
            assert answer.status_code == 200
            next(answer.iter_lines())

    with ThreadPoolExecutor(16) as pool:
        for _ in range(6):  # more than the replica admits at once, were they not freed
            list(pool.map(lambda _: leave(), range(16)))

    answer = wait_for("a free slot", lambda: stack.chat(foreign["routing_key"], "hi", max_tokens=2))
    assert answer.status_code == 200


def test_what_is_beyond_the_replicas_is_refused_quickly_and_disturbs_nobody(stack, foreign) -> None:
    async def flood() -> list[tuple[int, float, httpx.Headers, Json]]:
        limits = httpx.Limits(max_connections=400)
        async with httpx.AsyncClient(
            base_url=stack.url,
            headers={"authorization": f"Bearer {stack.token}"},
            timeout=60,
            limits=limits,
            trust_env=False,
        ) as client:

            async def one(number: int) -> tuple[int, float, httpx.Headers, Json]:
                begun = time.perf_counter()
                answer = await client.post(
                    "/v1/chat/completions",
                    json={
                        "model": foreign["routing_key"],
                        "messages": [{"role": "user", "content": f"{number}"}],
                        "temperature": 1,
                        "seed": number,
                        "max_tokens": 100,
                    },
                )
                return (
                    answer.status_code,
                    time.perf_counter() - begun,
                    answer.headers,
                    answer.json(),
                )

            return await asyncio.gather(*(one(number) for number in range(200)))

    results = asyncio.run(flood())

    refused = [item for item in results if item[0] == 503]
    assert {item[0] for item in results} == {200, 503}
    assert sum(item[0] == 200 for item in results) >= 32
    assert all("retry-after" in item[2] for item in refused)
    assert {item[3]["error"]["code"] for item in refused} == {"overloaded"}
    assert all(item[3]["choices"][0]["message"]["content"] for item in results if item[0] == 200)


def test_raw_streams_are_server_sent_events_that_end_with_done(stack, sample) -> None:
    body = {
        "model": sample["routing_key"],
        "messages": [{"role": "user", "content": QUESTION}],
        "stream": True,
    }
    with (
        stack.client() as client,
        client.stream("POST", "/v1/chat/completions", json=body) as answer,
    ):
        assert answer.headers["content-type"].startswith("text/event-stream")
        events = [line.removeprefix("data: ") for line in answer.iter_lines() if line]
    assert events[-1] == "[DONE]"
    assert all(json.loads(event)["object"] == "chat.completion.chunk" for event in events[:-1])
