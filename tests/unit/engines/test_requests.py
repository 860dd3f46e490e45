"""Reading requests from tensors."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engineshed.agent.engines.torch.generation import Generation, Guide
from engineshed.agent.engines.torch.requests import InvalidRequestError, read_request
from engineshed.triton.engine import EngineManifest

ENGINE = EngineManifest(
    backend="torch",
    engine_kind="pytorch",
    checkpoint_digest="sha256:00",
    architecture="LlamaForCausalLM",
    parameter_count=0,
    dtype="float32",
    quantization=None,
    vocab_size=100,
    max_context=64,
    max_concurrent=4,
    eos_token_ids=(2, 7),
    hardware="cpu",
    decoding="continuous",
    attention="sdpa",
    tokenizer="checkpoint",
    guided_decoding=True,
)


def read(**values: Any) -> Generation:
    """Read a request with these inputs, each in the shape that it has on the wire."""
    defaults = {"input_ids": [3, 4, 5], "input_lengths": 3, "request_output_len": 10}
    tensors = {
        name: np.array([value if isinstance(value, list) else [value]])
        for name, value in (defaults | values).items()
    }
    return read_request("1", tensors, ENGINE)


def test_the_prompt_is_as_long_as_it_says() -> None:
    assert read(input_ids=[3, 4, 5, 0, 0], input_lengths=3).prompt == [3, 4, 5]
    with pytest.raises(InvalidRequestError, match="input_lengths 4"):
        read(input_lengths=4)


@given(prompt=st.integers(1, 80), output=st.integers(1, 80))
def test_prompt_and_answer_together_never_exceed_the_context(prompt: int, output: int) -> None:
    values = {"input_ids": [3] * prompt, "input_lengths": prompt, "request_output_len": output}
    if prompt + output <= ENGINE.max_context:
        assert read(**values).max_new_tokens == output
    else:
        with pytest.raises(InvalidRequestError, match="max_context of 64"):
            read(**values)


def test_an_end_token_brings_the_engines_other_ones_along() -> None:
    assert read().end_ids == frozenset()
    assert read(end_id=-1).end_ids == frozenset()
    assert read(end_id=2).end_ids == {2, 7}
    assert read(end_id=9).end_ids == {2, 7, 9}


def test_nothing_said_of_sampling_is_greedy_and_a_temperature_alone_samples_from_all() -> None:
    assert read().sampling.greedy
    assert read(temperature=0.0).sampling.greedy
    assert read(runtime_top_k=1, temperature=1.0).sampling.greedy
    assert not read(temperature=0.7).sampling.greedy
    assert not read(runtime_top_p=0.9).sampling.greedy
    assert read(temperature=0.7).sampling.top_p == 1.0
    assert read(temperature=0.7, runtime_top_p=0.0).sampling.top_p == 1.0


def test_a_seed_keeps_all_its_bits() -> None:
    tensors = {"seed": np.array([[2**64 - 1]], dtype=np.uint64)}
    others = {"input_ids": [[3]], "input_lengths": [[1]], "request_output_len": [[1]]}
    tensors |= {name: np.array(value) for name, value in others.items()}

    assert read_request("1", tensors, ENGINE).sampling.seed == 2**64 - 1


words = st.lists(st.lists(st.integers(0, 99), min_size=1, max_size=4).map(tuple), max_size=5)


@given(words)
def test_stop_words_are_read_as_they_were_packed(stop_words: list[tuple[int, ...]]) -> None:
    flat = [token for word in stop_words for token in word]
    ends = list(np.cumsum([len(word) for word in stop_words]))
    width = max(len(flat), 1)
    packed = [row + [-1] * (width - len(row)) for row in (flat, ends)]

    assert read(stop_words_list=packed).stop_words == tuple(stop_words)


@pytest.mark.parametrize("ends", [[9, -1], [2, 1], [0, -1]])
def test_stop_words_that_make_no_sense_are_refused(ends: list[int]) -> None:
    with pytest.raises(InvalidRequestError, match="stop_words_list"):
        read(stop_words_list=[[5, 6], ends])


@pytest.mark.parametrize(
    "values",
    [
        {"temperature": float("inf")},
        {"temperature": -0.1},
        {"runtime_top_p": 1.01},
        {"runtime_top_k": -2},
        {"repetition_penalty": -1.0},
        {"presence_penalty": float("nan")},
        {"frequency_penalty": float("nan")},
        {"beam_width": 2},
        {"exclude_input_in_output": False},
        {"temperature": [0.5, 0.5]},
        {"min_tokens": -1},
        {"bad_words_list": [[100], [1]]},
        {"bad_words_list": [[5, 6], [9, -1]]},
    ],
    ids=str,
)
def test_what_cannot_be_honoured_is_refused_by_its_name(values: dict[str, Any]) -> None:
    [name] = values
    with pytest.raises(InvalidRequestError, match=name):
        read(**values)


def test_what_is_not_asked_for_is_left_alone() -> None:
    generation = read()

    assert not generation.log_probabilities
    assert generation.guide is None
    assert generation.sampling.bias is None
    assert (generation.sampling.bad_words, generation.sampling.min_tokens) == ((), 0)


def test_log_probabilities_bad_words_and_a_least_length_are_read() -> None:
    generation = read(return_log_probs=True, min_tokens=3, bad_words_list=[[5, 6, 9], [2, 3, -1]])

    assert generation.log_probabilities
    assert generation.sampling.min_tokens == 3
    assert generation.sampling.bad_words == ((5, 6), (9,))


def test_a_guide_is_read_and_brings_the_engines_end_tokens_along() -> None:
    guided = read(
        guided_decoding_guide_type=b"json_schema", guided_decoding_guide='{"a": "ü"}'.encode()
    )

    assert guided.guide == Guide("json_schema", '{"a": "ü"}')
    assert guided.end_ids == {2, 7}
    assert read(guided_decoding_guide_type=b"json").guide == Guide("json", "")


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"guided_decoding_guide_type": b"xml"}, "none of json, json_schema"),
        ({"guided_decoding_guide_type": b"regex"}, "is missing"),
        ({"guided_decoding_guide": b"a+"}, "without guided_decoding_guide_type"),
        ({"guided_decoding_guide_type": b"\xff"}, "UTF-8"),
    ],
)
def test_a_guide_that_says_too_little_is_refused(values: dict[str, bytes], reason: str) -> None:
    with pytest.raises(InvalidRequestError, match=reason):
        read(**values)


def test_an_engine_that_cannot_guide_refuses_to() -> None:
    tensors = _tensors([5]) | {"guided_decoding_guide_type": np.array([[b"json"]], dtype=object)}

    with pytest.raises(InvalidRequestError, match="guided_decoding_guide_type json"):
        read_request("1", tensors, replace(ENGINE, guided_decoding=False))


def test_a_bias_is_one_finite_number_for_each_token() -> None:
    bias = read(embedding_bias=[0.5, -2.0]).sampling.bias
    assert bias is not None
    assert bias.tolist() == [0.5, -2.0]
    with pytest.raises(InvalidRequestError, match="embedding_bias has 101 values"):
        read(embedding_bias=[0.0] * 101)
    with pytest.raises(InvalidRequestError, match="embedding_bias has values that are no numbers"):
        read(embedding_bias=[float("nan")])


def test_a_token_that_the_model_does_not_have_is_refused() -> None:
    for token in (-1, 100):
        with pytest.raises(InvalidRequestError, match=f"token {token}"):
            read(input_ids=[3, token, 5])
    assert read_request("1", _tensors([99]), replace(ENGINE, vocab_size=100)).prompt == [99]


def _tensors(prompt: list[int]) -> dict[str, Any]:
    values = {"input_ids": prompt, "input_lengths": [len(prompt)], "request_output_len": [1]}
    return {name: np.array([value]) for name, value in values.items()}
