"""A loaded engine: sampling, ending, cancelling, turning away; each request on its own."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig

from engineshed.agent.engines.interface import Runtime
from engineshed.agent.engines.torch import continuous
from engineshed.agent.engines.torch.backend import TorchBackend
from engineshed.agent.engines.torch.generation import Generation
from engineshed.agent.engines.torch.loading import load_model
from engineshed.agent.engines.torch.requests import InvalidRequestError
from engineshed.agent.engines.torch.sequential import SequentialDecoder
from engineshed.agent.engines.torch.serving import FullError, LoadedEngine
from engineshed.triton.engine import MODEL_NAME

from .checkpoints import END_ID, MAX_CONTEXT, write_checkpoint
from .engines import (
    DEADLINE,
    ask,
    build_here,
    inputs,
    log_probabilities,
    prompts_of,
    reference,
)

SAMPLED: dict[str, Any] = {"temperature": 1.2, "runtime_top_p": 0.95}


@pytest.fixture(scope="module", params=["llama", "gptj"], ids=["continuous", "sequential"])
def loaded(request: pytest.FixtureRequest, engine: Callable[[str], Path]) -> Iterator[LoadedEngine]:
    engine_in_memory = LoadedEngine(engine(request.param), on_broken=lambda: None)
    yield engine_in_memory
    engine_in_memory.close()


def kind_of(loaded: LoadedEngine) -> str:
    return "llama" if loaded.manifest.decoding == "continuous" else "gptj"


def test_the_same_seed_gives_the_same_answer_whatever_runs_beside_it(loaded: LoadedEngine) -> None:
    prompt, *others = prompts_of([12, 3, 30, 7, 50, 5, 9])
    alone = ask(loaded, inputs(prompt, 30, **SAMPLED, seed=7)).answer()

    beside = [ask(loaded, inputs(other, 40, **SAMPLED)) for other in others]
    again = ask(loaded, inputs(prompt, 30, **SAMPLED, seed=7)).answer()
    for each in beside:
        each.answer()

    assert again == alone


def test_other_seeds_and_no_seed_give_other_answers(loaded: LoadedEngine) -> None:
    [prompt] = prompts_of([12])
    seeds: tuple[dict[str, int], ...] = ({"seed": 1}, {"seed": 2}, {"seed": 2**64 - 1}, {}, {})
    answers = [ask(loaded, inputs(prompt, 30, **SAMPLED, **seed)).answer() for seed in seeds]

    assert len({tuple(answer) for answer in answers}) == len(seeds)


@pytest.mark.parametrize(
    "choice", [{}, {"temperature": 0.0}, {"runtime_top_k": 1, "temperature": 2.0, "seed": 3}]
)
def test_zero_temperature_top_k_of_one_and_no_choice_at_all_take_the_likeliest(
    loaded: LoadedEngine,
    choice: dict[str, Any],
    checkpoint: Callable[[str], Path],
    request: pytest.FixtureRequest,
) -> None:
    [prompt] = prompts_of([12])
    [expected] = reference(checkpoint(kind_of(loaded)), [prompt], 12)

    assert ask(loaded, inputs(prompt, 12, end_id=END_ID, **choice)).answer() == expected


def test_an_answer_ends_with_the_end_token_and_at_the_limit_without_one(
    loaded: LoadedEngine,
) -> None:
    [prompt] = prompts_of([12])
    endless = ask(loaded, inputs(prompt, 40)).answer()
    end = endless[20]

    ended = ask(loaded, inputs(prompt, 40, end_id=end)).answer()

    assert len(endless) == 40
    assert ended == endless[: endless.index(end) + 1]


def test_an_answer_ends_with_a_stop_word(loaded: LoadedEngine) -> None:
    [prompt] = prompts_of([12])
    endless = ask(loaded, inputs(prompt, 40)).answer()
    word = endless[9:11]
    tensors = dict(inputs(prompt, 40, streaming=True))
    tensors["stop_words_list"] = np.array([[[1, 1, 1, *word], [3, 5, -1, -1, -1]]])

    answer = ask(loaded, tensors).answer()

    assert answer[-2:] == word
    assert answer == endless[: len(answer)]
    assert len(answer) <= 11


def test_streamed_pieces_joined_are_the_whole_answer(loaded: LoadedEngine) -> None:
    [prompt] = prompts_of([12])
    whole = ask(loaded, inputs(prompt, 40))
    streamed = ask(loaded, inputs(prompt, 40, streaming=True))

    assert streamed.answer() == whole.answer()
    assert len(whole.messages) == 1
    assert len(streamed.messages) > 1


@pytest.mark.parametrize(
    ("penalty", "value"),
    [("presence_penalty", 50.0), ("frequency_penalty", 50.0), ("repetition_penalty", 1000.0)],
)
def test_a_strong_penalty_lets_no_token_come_twice(
    loaded: LoadedEngine, penalty: str, value: float
) -> None:
    [prompt] = prompts_of([12])
    answer = ask(loaded, inputs(prompt, 40, **{penalty: value})).answer()

    assert len(set(answer)) == len(answer)


@pytest.mark.parametrize(
    "choice", [{}, {**SAMPLED, "seed": 4}, {"temperature": 0.3, "frequency_penalty": 2.0}]
)
def test_log_probabilities_are_those_of_the_model_whatever_chose_the_tokens(
    loaded: LoadedEngine,
    choice: dict[str, Any],
    checkpoint: Callable[[str], Path],
) -> None:
    [prompt] = prompts_of([12])
    asked = {"return_log_probs": True, "streaming": True, **choice}
    beside = [ask(loaded, inputs(other, 30, **SAMPLED)) for other in prompts_of([40, 3], seed=2)]
    answer = ask(loaded, inputs(prompt, 20, **asked))
    tokens = answer.answer()
    for each in beside:
        assert each.answer()
        assert not each.log_probabilities

    expected = log_probabilities(checkpoint(kind_of(loaded)), prompt, tokens)
    assert answer.log_probabilities == pytest.approx(expected, abs=1e-4)
    last = next(piece for piece in reversed(answer.pieces) if piece.tokens)
    assert last.total_log_probability == pytest.approx(sum(expected), abs=1e-3)
    assert all(len(piece.log_probabilities or ()) == len(piece.tokens) for piece in answer.pieces)


def test_an_answer_does_not_end_before_its_least_length(loaded: LoadedEngine) -> None:
    [prompt] = prompts_of([12])
    endless = ask(loaded, inputs(prompt, 40)).answer()
    end = endless[5]

    answer = ask(loaded, inputs(prompt, 40, end_id=end, min_tokens=9)).answer()

    assert len(answer) > 9
    assert end not in answer[:9]
    assert answer[:5] == endless[:5]


def test_bad_words_of_one_token_or_of_several_do_not_come(loaded: LoadedEngine) -> None:
    [prompt] = prompts_of([12])
    free = ask(loaded, inputs(prompt, 40)).answer()
    single, pair = free[0], free[4:6]
    tensors = dict(inputs(prompt, 40))
    tensors["bad_words_list"] = np.array([[[single, *pair], [1, 3, -1]]])

    answer = ask(loaded, tensors).answer()

    assert single not in answer
    assert pair not in [answer[start : start + 2] for start in range(len(answer))]


def test_a_bias_makes_a_token_come_and_another_stay_away(loaded: LoadedEngine) -> None:
    [prompt] = prompts_of([12])
    likeliest = ask(loaded, inputs(prompt, 1)).answer()[0]
    bias = np.zeros((1, loaded.manifest.vocab_size), np.float32)
    bias[0, likeliest] = -1000

    without = ask(loaded, {**inputs(prompt, 40), "embedding_bias": bias}).answer()
    bias[0, 77] = 1000
    only = ask(loaded, {**inputs(prompt, 5), "embedding_bias": bias[:, :100]}).answer()

    assert likeliest not in without
    assert only == [77] * 5


def test_more_requests_than_it_admits_are_turned_away_and_the_others_not_disturbed(
    loaded: LoadedEngine,
) -> None:
    prompts = prompts_of([5] * loaded.manifest.max_concurrent)
    undisturbed = ask(loaded, inputs(prompts[0], 100)).answer()
    admitted = [ask(loaded, inputs(prompt, 100)) for prompt in prompts]

    with pytest.raises(FullError, match="32 requests"):
        ask(loaded, inputs(prompts[0], 1))

    assert admitted[0].answer() == undisturbed
    for each in admitted:
        assert len(each.answer()) == 100


def test_whoever_has_the_whole_answer_may_ask_again_at_once(loaded: LoadedEngine) -> None:
    prompts = prompts_of([5] * loaded.manifest.max_concurrent)
    for _ in range(5):
        asked = [ask(loaded, inputs(prompt, 2)) for prompt in prompts]
        for each in asked:
            each.answer()


def test_a_cancelled_request_gives_its_place_to_the_next_at_once(loaded: LoadedEngine) -> None:
    prompts = prompts_of([5] * loaded.manifest.max_concurrent)
    asked = [ask(loaded, inputs(prompt, 240, streaming=True)) for prompt in prompts]
    for each in asked:
        each.first()
    for each in asked:
        each.cancelled = True

    again = [ask(loaded, inputs(prompt, 4)) for prompt in prompts]

    assert [len(each.answer()) for each in again] == [4] * len(again)
    assert all(len(each.tokens) < 240 for each in asked)


def test_a_bad_request_is_refused_by_name(loaded: LoadedEngine) -> None:
    refused = {
        "input_lengths 300 and request_output_len 10": inputs([3] * 300, 10),
        "input_ids has the token 300": inputs([3, 300], 10),
        "input_lengths 0": inputs([], 10),
        "request_output_len 0": inputs([3], 0),
        "temperature -1": inputs([3], 5, temperature=-1.0),
        "temperature nan": inputs([3], 5, temperature=float("nan")),
        "runtime_top_p 1.5": inputs([3], 5, runtime_top_p=1.5),
        "runtime_top_k -1": inputs([3], 5, runtime_top_k=-1),
        "repetition_penalty 0": inputs([3], 5, repetition_penalty=0.0),
        "beam_width 2": inputs([3], 5, beam_width=2),
    }
    for message, tensors in refused.items():
        with pytest.raises(InvalidRequestError, match=message):
            ask(loaded, tensors)

    assert len(ask(loaded, inputs([3] * (MAX_CONTEXT - 10), 10)).answer()) == 10


def test_a_failure_of_one_answer_leaves_the_others_alone(
    loaded: LoadedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = prompts_of([5, 8])
    expected = ask(loaded, inputs(second, 60)).answer()
    unlucky = ask(loaded, inputs(first, 200, streaming=True))
    other = ask(loaded, inputs(second, 60))

    def gone(_tokens: list[int], *, final: bool) -> None:
        raise RuntimeError("the caller is gone")

    monkeypatch.setattr(unlucky, "send", gone)

    assert other.answer() == expected


def test_an_engine_whose_steps_fail_says_so_to_all_and_calls_for_its_end(
    engine: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = threading.Event()
    loaded = LoadedEngine(engine("llama"), on_broken=broken.set)
    try:
        asked = [ask(loaded, inputs(prompt, 200, streaming=True)) for prompt in prompts_of([5, 9])]
        for each in asked:
            each.first()
        decoder = loaded._decoder
        assert isinstance(decoder, continuous.ContinuousDecoder)

        def fail(*_args: object, **_kwargs: object) -> None:
            raise RuntimeError("the device is lost")

        monkeypatch.setattr(decoder._model, "forward", fail)
        for each in asked:
            with pytest.raises(AssertionError, match="the device is lost"):
                each.answer()

        assert broken.wait(DEADLINE)
    finally:
        loaded.close()


def test_where_the_cache_is_too_small_for_all_requests_wait_and_still_get_their_own_answers(
    engine: Callable[[str], Path],
    checkpoint: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(continuous, "_CPU_CACHE_TOKENS", MAX_CONTEXT)
    prompts = prompts_of([5, 100, 60, 90] * 4)
    expected = reference(checkpoint("llama"), prompts, 60)
    loaded = LoadedEngine(engine("llama"), on_broken=lambda: None)
    try:
        asked = [ask(loaded, inputs(prompt, 60, end_id=END_ID)) for prompt in prompts]
        answers = [each.answer() for each in asked]
    finally:
        loaded.close()

    assert answers == expected


def test_what_generation_config_does_to_a_greedy_choice_is_honoured(tmp_path: Path) -> None:
    generation = {
        "repetition_penalty": 1.7,
        "suppress_tokens": [17, 18],
        "eos_token_id": [END_ID, 250, 251],
        "do_sample": True,
        "temperature": 0.3,
        "top_k": 7,
    }
    checkpoint = write_checkpoint("llama", tmp_path / "checkpoint", generation=generation)
    prompts = prompts_of([3, 12, 40])
    expected = reference(checkpoint, prompts, 60)
    loaded = LoadedEngine(build_here(checkpoint, tmp_path / "engine"), on_broken=lambda: None)
    try:
        asked = [ask(loaded, inputs(prompt, 60, end_id=END_ID)) for prompt in prompts]
        answers = [each.answer() for each in asked]
    finally:
        loaded.close()

    assert loaded.manifest.decoding == "sequential"
    assert loaded.manifest.eos_token_ids == (END_ID, 250, 251)
    assert answers == expected


def test_it_admits_as_many_as_it_was_built_for_and_takes_as_many_tokens_in_a_step(
    checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    limits = {"max_concurrent": 2, "max_batch_tokens": 16}
    loaded = LoadedEngine(
        build_here(checkpoint("llama"), tmp_path, **limits), on_broken=lambda: None
    )
    [prompt] = prompts_of([64])
    try:
        before = loaded.activity.iterations
        ask(loaded, inputs(prompt, 1)).answer()
        steps = loaded.activity.iterations - before
        admitted = [ask(loaded, inputs(prompt, 150)) for _ in range(2)]
        with pytest.raises(FullError, match="2 requests"):
            ask(loaded, inputs(prompt, 1))

        assert steps == 4
        assert [len(each.answer()) for each in admitted] == [150, 150]
    finally:
        loaded.close()


class Halting:
    """A reply that stops its decoder at each token until it is let go on."""

    def __init__(self) -> None:
        self.came = threading.Semaphore(0)
        self.go_on = threading.Event()
        self.done = threading.Event()

    def token(self, token: int, log_probability: float | None = None) -> None:
        self.came.release()
        assert self.go_on.wait(DEADLINE)

    def finish(self) -> None:
        self.done.set()

    def fail(self, message: str) -> None:
        raise AssertionError(message)


@pytest.mark.parametrize("way", ["continuous", "sequential"])
def test_a_decoder_tells_what_it_is_doing(way: str, checkpoint: Callable[[str], Path]) -> None:
    model, _ = load_model(checkpoint("llama"), "float32", "cpu")
    decoder = (
        continuous.ContinuousDecoder(model, continuous.BatchLimits(MAX_CONTEXT, 2))
        if way == "continuous"
        else SequentialDecoder(model, 2)
    )
    replies = [Halting() for _ in range(3)]
    prompts = prompts_of([9, 40, 20])
    try:
        for index, (prompt, reply) in enumerate(zip(prompts, replies, strict=True)):
            decoder.submit(Generation(str(index), prompt, 5), reply)
        assert replies[0].came.acquire(timeout=DEADLINE)
        busy = decoder.activity
        for reply in replies:
            reply.go_on.set()
        for reply in replies:
            assert reply.done.wait(DEADLINE)
        done = decoder.activity
    finally:
        decoder.close()

    assert busy.scheduled + busy.waiting == 3
    assert 1 <= busy.scheduled <= 2
    assert 1 <= busy.iterations < done.iterations
    if way == "continuous":
        assert busy.cache is not None
        assert 0 < busy.cache.used < busy.cache.blocks
        assert busy.cache.blocks * busy.cache.block_tokens >= 2 * MAX_CONTEXT
    else:
        assert busy.cache is None


@pytest.mark.parametrize(("fraction", "tokens"), [(None, 800), (0.25, 250), (0.01, 64)])
def test_a_gpus_cache_takes_its_share_of_what_is_free_but_room_for_one_request_at_least(
    fraction: float | None, tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = SimpleNamespace(
        config=LlamaConfig(
            hidden_size=64, num_attention_heads=4, num_key_value_heads=2, num_hidden_layers=2
        ),
        dtype=torch.float16,
        device=torch.device("cuda"),
    )
    token_bytes = 2 * 2 * 2 * 16 * 2  # keys and values, layers, heads, their size, bytes
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (1000 * token_bytes, 10**12))
    limits = continuous.BatchLimits(64, 32, kv_cache_fraction=fraction)

    assert continuous.cache_tokens(model, limits) == tokens


def test_a_model_repository_says_which_share_of_a_gpu_the_cache_takes(tmp_path: Path) -> None:
    for fraction, said in ((0.5, '"0.5"'), (None, None)):
        TorchBackend().render(Path("/engine"), tmp_path, Runtime(kv_cache_fraction=fraction))
        configuration = (tmp_path / MODEL_NAME / "config.pbtxt").read_text()

        assert ("kv_cache_fraction" in configuration) is (said is not None)
        assert said is None or said in configuration
