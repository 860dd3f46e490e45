import json
from typing import Any

import pytest
from pydantic import ValidationError

from engineshed.replica.engine import Guide
from engineshed.replica.errors import ApiError
from engineshed.replica.requests import ChatRequest, CompletionRequest, GenerationRequest, parse

MANY = 5000


@pytest.mark.parametrize(
    ("model", "body", "param"),
    [
        (ChatRequest, {"messages": [{}] * MANY}, "messages[0].role"),
        (
            ChatRequest,
            {"messages": [{"role": "user", "content": [{}] * MANY}]},
            "messages[0].content[0].type",
        ),
        (CompletionRequest, {"prompt": [1] + ["a"] * MANY}, "prompt[1]"),
        (CompletionRequest, {"prompt": [[1] + ["a"] * MANY]}, "prompt[0][1]"),
        (CompletionRequest, {"prompt": "a", "stop": [1] * MANY}, "stop[0]"),
    ],
)
def test_a_list_is_read_to_its_first_error(
    model: type[GenerationRequest], body: object, param: str
) -> None:
    text = json.dumps(body).encode()

    with pytest.raises(ValidationError) as all_of_them:
        model.model_validate_json(text)
    with pytest.raises(ApiError) as caught:
        parse(model, text)

    # Each error is an object: a few megabytes of them would fill the memory.
    assert all_of_them.value.error_count() < 5
    assert (caught.value.status, caught.value.param) == (400, param)


def test_very_many_unknown_parameters_are_refused_without_naming_one() -> None:
    body = {"prompt": "a"} | {f"unknown{number}": 1 for number in range(MANY)}

    with pytest.raises(ApiError, match="very many places") as caught:
        parse(CompletionRequest, json.dumps(body).encode())

    assert caught.value.status == 400


def chat(**fields: Any) -> ChatRequest:
    body = {"messages": [{"role": "user", "content": "a"}], **fields}
    return parse(ChatRequest, json.dumps(body).encode())


def completion(**fields: Any) -> CompletionRequest:
    return parse(CompletionRequest, json.dumps({"prompt": "a", **fields}).encode())


def test_what_not_every_engine_honours_is_told_unless_it_changes_nothing() -> None:
    neutral = {"temperature": 1, "top_p": 1, "presence_penalty": 0, "min_tokens": 0}
    assert list(chat(**neutral, logprobs=False, response_format={"type": "text"}).asks_for()) == []
    assert list(completion(**neutral, logprobs=None).asks_for()) == []

    asked = {"temperature": 0, "top_p": 0.5, "seed": 0, "frequency_penalty": 1, "min_tokens": 2}
    names = list(chat(**asked, logprobs=True, response_format={"type": "json_object"}).asks_for())
    assert names == [*asked, "logprobs", "response_format"]
    assert list(completion(logprobs=0).asks_for()) == ["logprobs"]


def test_a_schema_goes_on_without_spaces_and_with_its_keys_in_their_order() -> None:
    schema = {"type": "object", "properties": {"b": {"const": "ä"}, "a": {}}}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}}

    assert chat(response_format=form).guide == Guide(
        "json_schema", '{"type":"object","properties":{"b":{"const":"ä"},"a":{}}}'
    )
    assert chat(response_format={"type": "json_object"}).guide == Guide("json")
    assert chat(response_format={"type": "text"}).guide is None


@pytest.mark.parametrize(
    ("form", "param"),
    [
        ({"type": "yaml"}, "response_format.type"),
        ({"type": "json_schema"}, "response_format"),
        ({"type": "text", "json_schema": {"name": "x", "schema": {}}}, "response_format"),
        (
            {"type": "json_schema", "json_schema": {"name": "x"}},
            "response_format.json_schema.schema",
        ),
        (
            {"type": "json_schema", "json_schema": {"name": "a b", "schema": {}}},
            "response_format.json_schema.name",
        ),
    ],
)
def test_a_response_format_that_is_none_is_refused_where_it_is_wrong(
    form: dict[str, Any], param: str
) -> None:
    with pytest.raises(ApiError) as caught:
        chat(response_format=form)

    assert (caught.value.status, caught.value.param) == (400, param)


@pytest.mark.parametrize(("value", "code"), [(1, "unsupported_parameter"), (False, "invalid_type")])
def test_completions_give_log_probabilities_of_their_own_tokens_alone(
    value: object, code: str
) -> None:
    with pytest.raises(ApiError) as caught:
        completion(logprobs=value)

    assert (caught.value.param, caught.value.code) == ("logprobs", code)
