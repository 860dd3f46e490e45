"""The committed sample model: small enough, complete, and right about an engine shed."""

from pathlib import Path

import pytest
import torch
from jinja2 import TemplateError
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase
from transformers.modeling_utils import PreTrainedModel

SAMPLE = Path(__file__).parents[3] / "services" / "engineshed" / "catalog" / "sample"
MEGABYTE = 1_000_000

HELPFUL = {"role": "system", "content": "You are a helpful assistant."}
QUESTION = {"role": "user", "content": "What is an engine shed?"}
EARLIER = [
    {"role": "user", "content": "Hi!"},
    {"role": "assistant", "content": "Hello! How can I help you?"},
]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(SAMPLE, local_files_only=True)


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(
        SAMPLE, dtype=torch.float32, local_files_only=True
    ).eval()


def test_the_weights_are_at_most_eight_megabytes() -> None:
    assert (SAMPLE / "model.safetensors").stat().st_size <= 8 * MEGABYTE


def test_the_chat_template_marks_every_role_and_asks_for_an_answer(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    text = tokenizer.apply_chat_template(
        [HELPFUL, *EARLIER, QUESTION], tokenize=False, add_generation_prompt=True
    )

    assert text == (
        "<|begin|><|system|>You are a helpful assistant.<|end|>"
        "<|user|>Hi!<|end|><|assistant|>Hello! How can I help you?<|end|>"
        "<|user|>What is an engine shed?<|end|><|assistant|>"
    )


def test_the_chat_template_refuses_a_role_it_does_not_know(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    with pytest.raises(TemplateError, match="not tool"):
        tokenizer.apply_chat_template([{"role": "tool", "content": "1"}], tokenize=False)


@pytest.mark.parametrize(
    "text", ["gemütlich", "機関庫", "Goodbye! 👋🚂", "placed → ready", " a  b\n"]
)
def test_any_text_survives_the_tokenizer(tokenizer: PreTrainedTokenizerBase, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


@pytest.mark.parametrize(
    "messages",
    [[QUESTION], [HELPFUL, QUESTION], [HELPFUL, *EARLIER, QUESTION]],
    ids=["alone", "with a system prompt", "in a conversation"],
)
def test_it_says_what_an_engine_shed_is_and_ends_by_itself(
    tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel, messages: list[dict[str, str]]
) -> None:
    prompt = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )

    output = model.generate(**prompt, do_sample=False, max_new_tokens=100)

    new = output[0, prompt["input_ids"].shape[1] :]
    answer = tokenizer.decode(new, skip_special_tokens=True)
    assert answer.startswith("An engine shed is where locomotives are housed")
    assert answer.endswith(".")
    assert new[-1] == tokenizer.eos_token_id


def test_some_characters_are_several_tokens_each(tokenizer: PreTrainedTokenizerBase) -> None:
    tokens = tokenizer.encode("機関庫", add_special_tokens=False)

    assert len(tokens) > len("機関庫")
