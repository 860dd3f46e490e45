import asyncio
import json
import socket
from typing import Any
from urllib.parse import urlsplit

import pytest

from engineshed.replica.requests import MAX_N

from .conftest import Start
from .fronts import DEADLINE, MAX_CONTEXT, SECRET, Front, write_echo_engine

CHAT = "/v1/chat/completions"
HELLO = [{"role": "user", "content": "hello"}]


async def test_a_caller_without_the_secret_gets_nothing(front: Front) -> None:
    for headers in ({"authorization": "Bearer wrong"}, {"authorization": ""}):
        for path in (CHAT, "/v1/models", "/health", "/metrics", "/nothing"):
            status, error = await front.refusal(path, {}, headers=headers)
            assert (status, error["code"]) == (401, "invalid_api_key")


@pytest.mark.parametrize(
    ("change", "param", "code"),
    [
        ({"frobnicate": 1}, "frobnicate", "unknown_parameter"),
        ({"temperature": "hot"}, "temperature", "invalid_type"),
        ({"temperature": 2.5}, "temperature", "invalid_value"),
        ({"top_p": -0.1}, "top_p", "invalid_value"),
        ({"max_tokens": 0}, "max_tokens", "invalid_value"),
        ({"max_tokens": 1.5}, "max_tokens", "invalid_type"),
        ({"max_tokens": True}, "max_tokens", "invalid_type"),
        ({"n": MAX_N + 1}, "n", "invalid_value"),
        ({"seed": 2**63}, "seed", "invalid_value"),
        ({"stop": ["a"] * 5}, "stop", "invalid_value"),
        ({"stop": ["a", ""]}, "stop[1]", "invalid_value"),
        ({"stream": "yes"}, "stream", "invalid_type"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "invalid_value"),
        ({"messages": []}, "messages", "invalid_value"),
        ({"messages": "hello"}, "messages", "invalid_type"),
        ({"messages": None}, "messages", "invalid_type"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "missing_required_parameter"),
        ({"messages": [{"role": "tool", "content": ""}]}, "messages[0].role", "invalid_value"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "messages[0].content[0].type",
            "invalid_value",
        ),
        ({"tools": [{"type": "function"}]}, "tools", "unsupported_parameter"),
        ({"logprobs": True}, "logprobs", "unsupported_parameter"),
        ({"logit_bias": {"1": 5}}, "logit_bias", "unsupported_parameter"),
        ({"top_logprobs": 2}, "top_logprobs", "unsupported_parameter"),
        ({"response_format": {"type": "json"}}, "response_format.type", "invalid_value"),
        ({"response_format": {"type": "json_schema"}}, "response_format", "invalid_value"),
        ({"response_format": {"type": "json_object"}}, "response_format", "unsupported_parameter"),
        ({"min_tokens": 3}, "min_tokens", "unsupported_parameter"),
        ({"max_completion_tokens": 5, "max_tokens": 6}, "max_completion_tokens", "invalid_value"),
    ],
)
async def test_what_is_not_understood_is_refused_by_name(
    front: Front, change: dict[str, Any], param: str, code: str
) -> None:
    status, error = await front.refusal(CHAT, {"messages": HELLO, **change})

    assert (status, error["param"], error["code"]) == (400, param, code)
    assert error["type"] == "invalid_request_error"
    assert error["message"]


async def test_openais_defaults_may_be_spelled_out(front: Front) -> None:
    neutral = {
        "frequency_penalty": 0,
        "presence_penalty": 0.0,
        "logit_bias": {},
        "logprobs": False,
        "top_logprobs": None,
        "response_format": {"type": "text"},
        "modalities": ["text"],
        "tools": [],
        "tool_choice": "none",
        "parallel_tool_calls": True,
        "store": False,
        "metadata": {"a": "b"},
        "service_tier": "auto",
        "user": "u",
        "safety_identifier": "s",
        "prompt_cache_key": "k",
        "reasoning_effort": None,
        "stop": None,
        "n": None,
        "temperature": 0,
        "top_p": None,
        "seed": None,
        "stream": None,
        "stream_options": None,
    }
    async with front.post(CHAT, {"messages": HELLO, **neutral}) as response:
        assert response.status == 200, await response.text()


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"{", "invalid_json"),
        (b"\xff", "invalid_json"),
        (b"[]", "invalid_type"),
        (b"", "invalid_json"),
    ],
)
async def test_a_body_that_is_no_json_object_is_refused(
    front: Front, body: bytes, code: str
) -> None:
    status, error = await front.refusal(CHAT, body)

    assert (status, error["code"]) == (400, code)


async def test_a_huge_body_is_refused(front: Front) -> None:
    body = json.dumps({"prompt": "x" * (8 * 1024 * 1024)}).encode()
    status, error = await front.refusal("/v1/completions", body)

    assert (status, error["code"]) == (413, "body_too_large")


async def test_who_sends_a_huge_body_to_its_end_can_read_why_it_is_refused(front: Front) -> None:
    size = 64 * 1024 * 1024  # more than the system holds for a reader that went away
    head = (
        "POST /v1/completions HTTP/1.1\r\nhost: replica\r\n"
        f"authorization: Bearer {SECRET}\r\ncontent-length: {size}\r\n\r\n"
    )
    address = urlsplit(front.state.http_url)

    def ask() -> bytes:
        with socket.create_connection((address.hostname, address.port), DEADLINE) as client:
            client.sendall(head.encode() + bytes(size))
            return client.recv(1000)

    assert b"413" in (await asyncio.to_thread(ask)).splitlines()[0]


async def test_an_unknown_model_path_or_method_is_refused(front: Front) -> None:
    status, error = await front.refusal(CHAT, {"messages": HELLO, "model": "other"})
    assert (status, error["code"], error["param"]) == (404, "model_not_found", "model")

    status, error = await front.refusal("/v1/embeddings", {})
    assert (status, error["code"]) == (404, "not_found")

    status, error = await front.refusal("/v1/models", {})
    assert (status, error["code"]) == (405, "method_not_allowed")


async def test_what_exceeds_the_context_is_refused_with_numbers(front: Front) -> None:
    long = [{"role": "user", "content": "x" * MAX_CONTEXT}]
    status, error = await front.refusal(CHAT, {"messages": long})
    assert (status, error["code"], error["param"]) == (400, "context_length_exceeded", "messages")
    assert f"{MAX_CONTEXT} tokens" in error["message"]
    assert "402 tokens" in error["message"]

    status, error = await front.refusal("/v1/completions", {"prompt": "x" * 100_000})
    assert (status, error["code"], error["param"]) == (400, "context_length_exceeded", "prompt")
    assert "at least 6400 tokens" in error["message"]

    status, error = await front.refusal("/v1/completions", {"prompt": "x" * 300, "max_tokens": 101})
    assert (status, error["code"], error["param"]) == (400, "context_length_exceeded", "max_tokens")
    assert "lower max_tokens to 100" in error["message"]


@pytest.mark.parametrize("prompt", ["", [], [270], [[-1]], [[1], []], {"a": 1}, ["a", 1]])
async def test_a_prompt_that_is_none_is_refused(front: Front, prompt: Any) -> None:
    status, error = await front.refusal("/v1/completions", {"prompt": prompt})

    assert status == 400
    assert error["param"].startswith("prompt")


async def test_messages_that_the_template_refuses_are_refused_in_its_words(front: Front) -> None:
    messages = [*HELLO, {"role": "system", "content": "late"}]
    status, error = await front.refusal(CHAT, {"messages": messages})

    assert (status, error["code"]) == (400, "chat_template_error")
    assert "a system message must come first" in error["message"]


async def test_without_a_chat_template_only_completions_work(
    start: Start, tmp_path_factory: pytest.TempPathFactory
) -> None:
    engine = write_echo_engine(tmp_path_factory.mktemp("plain"), chat=False)
    front = await (await start(engine)).ready()

    status, error = await front.refusal(CHAT, {"messages": HELLO})
    assert (status, error["code"]) == (400, "no_chat_template")
    body = await front.complete("hello", temperature=0)
    assert body["choices"][0]["text"] == "hello"


@pytest.mark.parametrize("change", [{"presence_penalty": 1}, {"logprobs": 0}, {"min_tokens": 1}])
async def test_what_the_engine_has_no_input_for_is_refused_by_name(
    front: Front, change: dict[str, Any]
) -> None:
    status, error = await front.refusal("/v1/completions", {"prompt": "hello", **change})

    assert (status, error["code"]) == (400, "unsupported_parameter")
    assert error["param"] in change


async def test_a_request_id_comes_back(front: Front) -> None:
    async with front.post(CHAT, {"messages": HELLO}, headers={"x-request-id": "mine-1"}) as it:
        assert it.headers["x-request-id"] == "mine-1"
    async with front.post(CHAT, {"messages": HELLO}, headers={"x-request-id": "not ours!"}) as it:
        assert it.headers["x-request-id"] not in {"", "not ours!"}
    assert '"request_id": "mine-1"' in front.log


async def test_secrets_and_prompts_stay_out_of_the_log(front: Front) -> None:
    await front.complete("a very private prompt", temperature=0)

    assert "private" not in front.log
    assert "the-replica's-secret" not in front.log
