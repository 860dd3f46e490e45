import json

import pytest
from pydantic import ValidationError

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
