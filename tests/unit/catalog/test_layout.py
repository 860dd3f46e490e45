"""Which directories are checkpoints, by names and small files."""

import json

import pytest

from engineshed.catalog import layout
from engineshed.catalog.domain.errors import CheckpointInvalidError
from engineshed.catalog.layout import ModelConfig

CONFIG = {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
PLAIN = ModelConfig("LlamaForCausalLM", 0, "")


def config(**changes: object) -> bytes:
    return json.dumps({**CONFIG, **changes}).encode()


def test_a_config_tells_the_architecture_and_the_longest_context() -> None:
    read = layout.read_config(config(max_position_embeddings=4096))

    assert read == ModelConfig("LlamaForCausalLM", 4096, "")


@pytest.mark.parametrize(
    ("stated", "context"),
    [
        ({"n_positions": 1024}, 1024),
        ({"n_ctx": 512}, 512),
        ({"max_seq_len": 2048}, 2048),
        ({"text_config": {"max_position_embeddings": 8192}}, 8192),
        ({"max_position_embeddings": None, "n_positions": 3}, 3),
        ({"max_position_embeddings": -1}, 0),
        ({"max_position_embeddings": True}, 0),
        ({"max_position_embeddings": 2**40}, 0),
        ({}, 0),
    ],
)
def test_the_longest_context_has_many_names(stated: dict[str, object], context: int) -> None:
    assert layout.read_config(config(**stated)).max_position_embeddings == context


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (b"{", "not valid JSON"),
        (b"", "not valid JSON"),
        (b"\xff\xfe\x00", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b"[1]", "not a JSON object"),
        (config(architectures=[]), "architectures"),
        (config(architectures=None), "architectures"),
        (config(architectures="LlamaForCausalLM"), "architectures"),
        (config(architectures=["\ud800"]), "architectures"),
        (config(model_type=None), "model_type"),
        (config(architectures=["BertForSequenceClassification"]), "generates no text"),
        (config(architectures=["BertForMaskedLM"]), "generates no text"),
    ],
)
def test_a_config_that_no_engine_could_use_is_refused(text: bytes, told: str) -> None:
    with pytest.raises(CheckpointInvalidError, match=told) as refused:
        layout.read_config(text)

    assert refused.value.facts["file"] == "config.json"
    refused.value.message.encode()


@pytest.mark.parametrize(
    "name",
    ["GPT2LMHeadModel", "Gemma3ForConditionalGeneration", "SomethingNewForCausalLM", "QwenModel"],
)
def test_an_architecture_that_engines_may_know_is_left_to_them(name: str) -> None:
    assert layout.read_config(config(architectures=[name])).architecture == name


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["model.safetensors"], "model.safetensors"),
        (["model.safetensors.index.json", "model-00001-of-00001.safetensors"], None),
        (["model.safetensors", "model.safetensors.index.json"], "model.safetensors"),
        (["model.safetensors", "pytorch_model.bin"], "model.safetensors"),
    ],
)
def test_weights_are_those_that_transformers_would_load(
    names: list[str], chosen: str | None
) -> None:
    assert layout.choose_weights(names, PLAIN) == (chosen or "model.safetensors.index.json")


def test_a_config_may_name_other_weights() -> None:
    named = ModelConfig("LlamaForCausalLM", 0, "tuned.safetensors")

    names = ["model.safetensors", "tuned.safetensors"]

    assert layout.choose_weights(names, named) == "tuned.safetensors"
    with pytest.raises(CheckpointInvalidError, match=r"tuned\.safetensors"):
        layout.choose_weights(["model.safetensors"], named)


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["config.json"], r"no \*\.safetensors"),
        (["pytorch_model.bin"], "save_pretrained"),
        (["model.pt"], "save_pretrained"),
        (["consolidated.00.pth"], "save_pretrained"),
        (["model-00001-of-00002.safetensors"], "what belongs together"),
        (["adapter_config.json", "adapter_model.safetensors"], "merge"),
    ],
)
def test_weights_that_cannot_be_served_are_refused_with_the_way_out(
    names: list[str], told: str
) -> None:
    with pytest.raises(CheckpointInvalidError, match=told):
        layout.choose_weights(names, PLAIN)


def test_what_is_needed_is_copied_and_code_is_not() -> None:
    names = [
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer.model",
        "merges.txt",
        "qwen.tiktoken",
        "chat_template.jinja",
        "additional_chat_templates/tools.jinja",
        "LICENSE",
        "README.md",
        # not needed:
        "modeling_custom.py",
        "README.py",
        "pytorch_model.bin",
        "pytorch_model.bin.index.json",
        "model.safetensors.index.json",
        "optimizer.pt",
        ".gitattributes",
        ".hidden.json",
        "manifest.json",
        "weights.gguf",
    ]

    assert layout.side_files(names) == sorted(names[:10])


@pytest.mark.parametrize(
    "names",
    [
        ["tokenizer.json"],
        ["tokenizer.model"],
        ["vocab.json", "merges.txt"],
        ["spiece.model"],
        ["vocab.txt"],
        ["qwen.tiktoken"],
    ],
)
def test_tokenizers_come_in_many_forms(names: list[str]) -> None:
    layout.require_tokenizer(names, {})


def test_a_tokenizer_of_bytes_needs_no_vocabulary() -> None:
    layout.require_tokenizer([], {"tokenizer_class": "ByT5Tokenizer"})


@pytest.mark.parametrize(
    ("names", "told"),
    [(["config.json"], "no tokenizer"), (["vocab.json"], r"merges\.txt"), ([], "no tokenizer")],
)
def test_no_tokenizer_is_refused(names: list[str], told: str) -> None:
    with pytest.raises(CheckpointInvalidError, match=told):
        layout.require_tokenizer(names, {"tokenizer_class": "LlamaTokenizer"})


@pytest.mark.parametrize(
    ("names", "tokenizer_config", "there"),
    [
        ([], {"chat_template": "{{ messages }}"}, True),
        ([], {"chat_template": [{"name": "default", "template": ""}]}, True),
        (["chat_template.jinja"], {}, True),
        (["chat_template.json"], {}, True),
        (["additional_chat_templates/default.jinja"], {}, True),
        (["tokenizer.json"], {"chat_template": None}, False),
    ],
)
def test_chat_templates_have_several_places(
    names: list[str], tokenizer_config: dict[str, object], there: bool
) -> None:
    assert layout.has_chat_template(names, tokenizer_config) is there


@pytest.mark.parametrize(
    ("readme", "base"),
    [
        ("---\nlicense: mit\nbase_model: meta-llama/Llama-3\n---\ntext", "meta-llama/Llama-3"),
        ("---\nbase_model:\n- meta-llama/Llama-3\n- other/one\n---\n", "meta-llama/Llama-3"),
        ('---\nbase_model: "a/b"\n---', "a/b"),
        ("---\nlicense: mit\n---\nbase_model: a/b\n", ""),
        ("# base_model: a/b", ""),
        ("", ""),
    ],
)
def test_a_model_card_may_name_the_base_model(readme: str, base: str) -> None:
    assert layout.base_model(readme) == base
