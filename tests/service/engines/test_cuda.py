"""The same engines on a GPU. Where there is none, these tests are skipped."""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from engineshed.agent.engines.torch.serving import LoadedEngine
from engineshed.triton.engine import Decoding, EngineManifest

from .checkpoints import byte_tokenizer
from .engines import ask, build_here, inputs, prompts_of

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")

NEW_TOKENS = 24


@pytest.fixture
def loaded(tmp_path: Path, checkpoint: Callable[[str], Path]) -> Callable[..., LoadedEngine]:
    """Return a function that builds an engine for the GPU and loads it."""

    def give(kind: str, decoding: Decoding | None = None) -> LoadedEngine:
        product = torch.cuda.get_device_name()
        engine = build_here(checkpoint(kind), tmp_path, hardware=product)
        if decoding is not None:
            replace(EngineManifest.read(engine), decoding=decoding).write(engine)
        return LoadedEngine(engine, on_broken=lambda: None)

    return give


@pytest.mark.parametrize("kind", ["llama", "qwen2", "mistral"])
def test_requests_answered_together_get_the_answers_of_generate(
    kind: str, loaded: Callable[..., LoadedEngine], checkpoint: Callable[[str], Path]
) -> None:
    prompts = prompts_of([1, 3, 7, 12, 20, 33, 64, 100] * 4)
    engine = loaded(kind)
    assert engine.manifest.decoding == "continuous"

    answers = [ask(engine, inputs(prompt, NEW_TOKENS)) for prompt in prompts]

    assert [each.answer() for each in answers] == on_the_gpu(checkpoint(kind), prompts)
    engine.close()


def test_requests_that_take_turns_get_the_answers_of_generate(
    loaded: Callable[..., LoadedEngine], checkpoint: Callable[[str], Path]
) -> None:
    prompts = prompts_of([2, 9, 40])
    engine = loaded("llama", "sequential")

    answers = [ask(engine, inputs(prompt, NEW_TOKENS)) for prompt in prompts]

    assert [each.answer() for each in answers] == on_the_gpu(checkpoint("llama"), prompts)
    engine.close()


def test_a_seed_means_the_same_whatever_runs_beside_it(
    loaded: Callable[..., LoadedEngine],
) -> None:
    prompt, *others = prompts_of([10, 4, 30, 90])
    engine = loaded("llama")
    sampling = {"temperature": 0.9, "runtime_top_k": 40, "runtime_top_p": 0.95, "seed": 7}

    alone = ask(engine, inputs(prompt, NEW_TOKENS, **sampling)).answer()
    beside = [ask(engine, inputs(other, NEW_TOKENS, temperature=1.5)) for other in others]
    again = ask(engine, inputs(prompt, NEW_TOKENS, **sampling)).answer()
    other = ask(engine, inputs(prompt, NEW_TOKENS, **(sampling | {"seed": 8}))).answer()

    assert all(each.answer() for each in beside)
    assert again == alone
    assert other != alone
    engine.close()


def test_answers_are_held_to_a_grammar_and_come_with_their_log_probabilities(
    loaded: Callable[..., LoadedEngine],
) -> None:
    engine = loaded("llama:bytes")
    [prompt] = prompts_of([10])
    tensors = dict(inputs(prompt, NEW_TOKENS, temperature=1.0, return_log_probs=True))
    tensors["guided_decoding_guide_type"] = np.array([[b"regex"]], dtype=object)
    tensors["guided_decoding_guide"] = np.array([[b"[ab]{9}"]], dtype=object)

    answer = ask(engine, tensors)

    said = byte_tokenizer().decode(answer.answer(), skip_special_tokens=True)
    assert re.fullmatch("[ab]{9}", said)
    assert len(answer.log_probabilities) == 10
    engine.close()


def on_the_gpu(checkpoint: Path, prompts: Sequence[list[int]]) -> list[list[int]]:
    """Return what `generate` gives for each prompt alone, on the GPU, in float32."""
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).cuda()
    answers = []
    for prompt in prompts:
        input_ids = torch.tensor([prompt], device="cuda")
        output = model.generate(
            input_ids,
            attention_mask=torch.ones_like(input_ids),
            do_sample=False,
            max_new_tokens=NEW_TOKENS,
        )
        answers.append(output[0, len(prompt) :].tolist())
    return answers
