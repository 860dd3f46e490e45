import asyncio

from .fronts import KEY, Front, events, text_of


async def test_a_completion_is_the_engines_text(front: Front) -> None:
    body = await front.complete("hello", max_tokens=50, temperature=0, model=KEY)

    assert body["choices"] == [
        {"index": 0, "text": "hello", "logprobs": None, "finish_reason": "stop"}
    ]
    assert body["usage"] == {"prompt_tokens": 5, "completion_tokens": 6, "total_tokens": 11}
    assert body["object"] == "text_completion"
    assert body["model"] == KEY
    assert body["id"].startswith("cmpl-")
    assert body["system_fingerprint"] == "fp_" + front.state.engine_digest[7:19]


async def test_it_ends_by_length_when_it_is_as_long_as_asked(front: Front) -> None:
    body = await front.complete("hello", max_tokens=3, temperature=0)

    assert body["choices"][0]["text"] == "hel"
    assert body["choices"][0]["finish_reason"] == "length"
    assert body["usage"]["completion_tokens"] == 3


async def test_pieces_of_a_stream_joined_are_the_whole_answer(front: Front) -> None:
    prompt = "Grüße, 你好 😀!"
    chunks = await front.stream(prompt, max_tokens=100, temperature=0)

    assert chunks[-1] is None
    assert text_of(chunks) == prompt
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks[:-1]][-1] == "stop"
    assert all("usage" not in chunk for chunk in chunks[:-1])
    assert len({chunk["id"] for chunk in chunks[:-1]}) == 1


async def test_a_stream_tells_its_usage_when_asked(front: Front) -> None:
    options = {"stream_options": {"include_usage": True}}
    *chunks, usage, done = await front.stream("hello", max_tokens=9, temperature=0, **options)

    assert done is None
    assert usage["choices"] == []
    assert usage["usage"] == {"prompt_tokens": 5, "completion_tokens": 6, "total_tokens": 11}
    assert all(chunk["usage"] is None for chunk in chunks)


async def test_a_chat_goes_through_the_template(front: Front) -> None:
    messages = [
        {"role": "developer", "content": "Be kind."},
        {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
    ]
    async with front.post(
        "/v1/chat/completions", {"messages": messages, "temperature": 0}
    ) as response:
        body = await response.json()

    # The echo engine says the special tokens too, but they are no text.
    assert body["choices"][0]["message"]["content"] == "Be kind.Hi"
    assert body["choices"][0]["finish_reason"] == "stop"
    assert body["usage"]["prompt_tokens"] == len("Be kind.Hi") + 3
    assert body["object"] == "chat.completion"


async def test_a_chat_stream_opens_and_ends_every_choice(front: Front) -> None:
    request = {
        "messages": [{"role": "user", "content": "Hi"}],
        "temperature": 0,
        "n": 2,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    async with front.post("/v1/chat/completions", request) as response:
        assert response.content_type == "text/event-stream"
        *chunks, usage, done = [event async for event in events(response)]

    for index in range(2):
        said = [each for chunk in chunks for each in chunk["choices"] if each["index"] == index]
        first, *middle, last = said
        assert first["delta"] == {"role": "assistant", "content": "", "refusal": None}
        assert "".join(each["delta"]["content"] for each in middle) == "Hi"
        assert last["delta"] == {}
        assert [each["finish_reason"] for each in said] == [None] * len([first, *middle]) + ["stop"]
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    # Each answer says the two special tokens of the prompt too, and the end token.
    assert usage["usage"] == {"prompt_tokens": 4, "completion_tokens": 10, "total_tokens": 14}
    assert done is None


async def test_a_stop_word_ends_the_answer_and_the_generation(front: Front) -> None:
    request = {"max_tokens": 300, "temperature": 0, "stop": ["p, q", "STOP"]}
    chunks = await front.stream("a STO a STOP b [forever][slow]", **request)
    body = await front.complete("a STO a STOP b [forever][slow]", **request)

    assert text_of(chunks) == body["choices"][0]["text"] == "a STO a "
    assert body["choices"][0]["finish_reason"] == "stop"
    assert body["usage"]["completion_tokens"] == len("a STO a STOP")


async def test_n_answers_differ_and_a_seed_repeats_them(front: Front) -> None:
    request = {"max_tokens": 20, "n": 3, "seed": 7}
    first = await front.complete("x", **request)
    second = await front.complete("x", **request)
    unseeded = await front.complete("x", max_tokens=20)

    texts = [choice["text"] for choice in first["choices"]]
    assert len(set(texts)) == 3
    assert [choice["index"] for choice in first["choices"]] == [0, 1, 2]
    assert texts == [choice["text"] for choice in second["choices"]]
    assert first["usage"]["prompt_tokens"] == 1
    assert first["usage"]["completion_tokens"] == 60
    assert unseeded["choices"][0]["text"] not in texts


async def test_several_prompts_have_answers_of_their_own(front: Front) -> None:
    chunks = await front.stream(["one", "two"], max_tokens=9, temperature=0, n=2)
    ids = await front.complete([[104, 105], [111]], max_tokens=9, temperature=0)

    assert [text_of(chunks, index) for index in range(4)] == ["one", "one", "two", "two"]
    assert [choice["text"] for choice in ids["choices"]] == ["hi", "o"]


async def test_many_at_once_get_their_own_answers(front: Front) -> None:
    prompts = [f"this is number {number}" for number in range(8)]
    bodies = await asyncio.gather(
        *(front.complete(prompt, max_tokens=50, temperature=0) for prompt in prompts)
    )

    assert [body["choices"][0]["text"] for body in bodies] == prompts


async def test_a_prompt_may_fill_the_context_and_default_answers_fit_in(front: Front) -> None:
    messages = [{"role": "user", "content": "x" * 390}]
    async with front.post("/v1/chat/completions", {"messages": messages, "temperature": 0}) as it:
        body = await it.json()

    assert body["usage"] == {"prompt_tokens": 392, "completion_tokens": 8, "total_tokens": 400}
    assert body["choices"][0]["finish_reason"] == "length"
