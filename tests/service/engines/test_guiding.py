"""Answers that are held to something: they are it, whatever the model would rather say."""

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from llguidance import LLMatcher

from engineshed.agent.engines.torch.guiding import Guided, Guides, read_tokenizer
from engineshed.agent.engines.torch.requests import InvalidRequestError
from engineshed.agent.engines.torch.serving import LoadedEngine
from engineshed.triton.refusal import Refusal

from .checkpoints import END_ID, VOCABULARY, byte_tokenizer
from .engines import DEADLINE, Collected, ask, inputs, prompts_of

TOKENIZER = byte_tokenizer()
SCHEMA = {
    "type": "object",
    "properties": {"ok": {"type": "boolean"}, "size": {"enum": ["S", "M"]}},
    "required": ["ok", "size"],
    "additionalProperties": False,
}
LIST = 'root ::= "[" item ("," item)? "]"\nitem ::= "yes" | "no"'


@pytest.fixture(scope="module", params=["llama", "gptj"], ids=["continuous", "sequential"])
def loaded(request: pytest.FixtureRequest, engine: Callable[[str], Path]) -> Iterator[LoadedEngine]:
    in_memory = LoadedEngine(engine(f"{request.param}:bytes"), on_broken=lambda: None)
    assert in_memory.manifest.guided_decoding
    yield in_memory
    in_memory.close()


def guided(
    engine: LoadedEngine, kind: str, guide: str, new_tokens: int = 240, **more: Any
) -> Collected:
    [prompt] = prompts_of([9])
    tensors = dict(inputs(prompt, new_tokens, **more))
    tensors["guided_decoding_guide_type"] = np.array([[kind.encode()]], dtype=object)
    if guide:
        tensors["guided_decoding_guide"] = np.array([[guide.encode()]], dtype=object)
    return ask(engine, tensors)


def text_of(tokens: list[int]) -> str:
    """Return the text of an answer that ended by itself."""
    assert tokens[-1] == END_ID
    return str(TOKENIZER.decode(tokens[:-1]))


@pytest.mark.parametrize("choice", [{}, {"temperature": 1.5, "seed": 3}, {"temperature": 1.0}])
def test_an_answer_follows_its_schema_and_ends_when_it_is_complete(
    loaded: LoadedEngine, choice: dict[str, Any]
) -> None:
    answers = [guided(loaded, "json_schema", json.dumps(SCHEMA), **choice) for _ in range(3)]

    for each in answers:
        said = json.loads(text_of(each.answer()))
        assert said.keys() == {"ok", "size"}
        assert isinstance(said["ok"], bool)
        assert said["size"] in {"S", "M"}


@pytest.mark.parametrize(
    ("kind", "guide", "pattern"),
    [
        ("regex", "[a-c]{4}(-[0-9]{2})?", r"[a-c]{4}(-[0-9]{2})?"),
        ("ebnf_grammar", LIST, r"\[(yes|no)(,(yes|no))?\]"),
    ],
)
def test_an_answer_follows_its_expression_or_its_grammar(
    loaded: LoadedEngine, kind: str, guide: str, pattern: str
) -> None:
    answers = [guided(loaded, kind, guide, temperature=1.0, seed=seed) for seed in range(4)]

    assert all(re.fullmatch(pattern, text_of(each.answer())) for each in answers)


def test_json_is_an_object(loaded: LoadedEngine) -> None:
    tokens = guided(loaded, "json", "", 40, temperature=1.0, seed=1).answer()

    assert TOKENIZER.decode(tokens).startswith("{")


def test_others_are_not_disturbed_by_what_one_answer_is_held_to(loaded: LoadedEngine) -> None:
    [prompt] = prompts_of([20])
    alone = ask(loaded, inputs(prompt, 30)).answer()

    beside = [guided(loaded, "regex", "[ab]{30}") for _ in range(4)]
    free = ask(loaded, inputs(prompt, 30)).answer()

    assert free == alone
    assert {text_of(each.answer()) for each in beside} <= {text_of(beside[0].answer())}


@pytest.mark.parametrize(
    ("kind", "guide", "reason"),
    [
        ("json_schema", '{"type": "objeckt"}', "objeckt"),
        ("json_schema", "{nope", "line 1"),
        ("regex", "[ab", "unclosed character class"),
        ("ebnf_grammar", "root = 3", "Expected ::="),
        ("json_schema", '{"$ref": "http://127.0.0.1:9/schema"}', "127.0.0.1:9/schema"),
    ],
)
def test_what_cannot_be_followed_is_refused_with_the_reason_and_takes_no_place(
    loaded: LoadedEngine, kind: str, guide: str, reason: str
) -> None:
    refused = guided(loaded, kind, guide)
    refused.end()

    assert refused.refusal is Refusal.INVALID_ARGUMENT
    assert "guided_decoding_guide" in (refused.error or "")
    assert reason in (refused.error or "")
    assert loaded.in_flight == 0


def test_an_end_that_has_to_come_comes_before_the_least_length_and_over_bad_words(
    loaded: LoadedEngine,
) -> None:
    [prompt] = prompts_of([9])
    tensors = dict(inputs(prompt, 20, min_tokens=10))
    tensors["guided_decoding_guide_type"] = np.array([[b"regex"]], dtype=object)
    tensors["guided_decoding_guide"] = np.array([[b"ab"]], dtype=object)
    [letter] = TOKENIZER.encode("b", add_special_tokens=False)
    tensors["bad_words_list"] = np.array([[[letter], [1]]])

    assert text_of(ask(loaded, tensors).answer()) == "ab"


def test_whoever_leaves_while_the_guide_is_compiled_is_not_worked_for(
    loaded: LoadedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiling, go_on = threading.Event(), threading.Event()
    original = Guides.constraint

    def slowly(self: Guides, *arguments: Any, **named: Any) -> Guided:
        compiling.set()
        assert go_on.wait(DEADLINE)
        return original(self, *arguments, **named)

    monkeypatch.setattr(Guides, "constraint", slowly)
    left = guided(loaded, "regex", "[ab]{240}")
    assert compiling.wait(DEADLINE)
    left.cancelled = True
    left.end()
    before = loaded.activity.iterations
    go_on.set()
    assert text_of(guided(loaded, "regex", "a").answer()) == "a"
    while loaded.activity.scheduled or loaded.activity.waiting:
        time.sleep(0.01)

    assert not left.tokens
    assert loaded.activity.iterations - before < 120


def test_a_step_that_cannot_go_on_ends_this_answer_only(tmp_path: Path) -> None:
    TOKENIZER.save_pretrained(tmp_path)
    tokenizer = read_tokenizer(tmp_path, VOCABULARY, (END_ID,))
    matcher = LLMatcher(tokenizer, LLMatcher.grammar_from_regex("[ab]+"), log_level=0)
    errors: list[str] = []
    [other] = TOKENIZER.encode("x", add_special_tokens=False)

    scores = Guided(matcher, 1, (END_ID,), errors.append)(
        torch.tensor([[5, other]]), torch.zeros(1, VOCABULARY)
    )

    assert scores.isfinite().nonzero().tolist() == [[0, END_ID]]
    assert errors


def test_an_engine_whose_tokenizer_is_not_understood_says_so_and_refuses(
    engine: Callable[[str], Path],
) -> None:
    in_memory = LoadedEngine(engine("llama"), on_broken=lambda: None)
    try:
        assert not in_memory.manifest.guided_decoding
        with pytest.raises(InvalidRequestError, match="guided_decoding_guide_type"):
            guided(in_memory, "json", "")
        assert ask(in_memory, inputs([5], 3)).answer()
    finally:
        in_memory.close()
