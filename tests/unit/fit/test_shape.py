"""What is read of a model from config.json and the headers of its weights."""

from typing import Any

import pytest

from engineshed.fit import ModelShape, StoredTensor, shape_of

LLAMA: dict[str, Any] = {
    "hidden_size": 4096,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "num_hidden_layers": 32,
}


def of(config: dict[str, Any], *tensors: StoredTensor) -> ModelShape:
    return shape_of(config, tensors, 8192)


def test_heads_are_as_wide_as_their_share_of_the_hidden_size() -> None:
    shape = of(LLAMA)
    assert (shape.layers, shape.kv_heads, shape.head_dim, shape.hidden) == (32, 8, 128, 4096)


@pytest.mark.parametrize(
    ("config", "kv_heads"),
    [
        ({"n_embd": 768, "n_head": 12, "n_layer": 12}, 12),
        ({"n_embd": 768, "n_head": 12, "n_layer": 12, "multi_query": True}, 1),
        ({**LLAMA, "num_key_value_heads": None}, 32),
    ],
)
def test_older_names_and_defaults_are_known(config: dict[str, Any], kv_heads: int) -> None:
    assert of(config).kv_heads == kv_heads


def test_of_models_that_see_too_the_text_part_counts() -> None:
    assert of({"hidden_size": 1, "text_config": LLAMA}).head_dim == 128


def test_layers_that_keep_no_keys_do_not_count() -> None:
    kinds = ["linear_attention"] * 3 + ["full_attention"]
    shape = of({**LLAMA, "num_hidden_layers": 4, "layer_types": kinds})
    assert shape.layers == 1


def test_windows_count_in_full() -> None:
    kinds = ["sliding_attention", "full_attention"]
    assert of({**LLAMA, "num_hidden_layers": 2, "layer_types": kinds}).layers == 2


def test_latent_attention_keeps_little() -> None:
    shape = of({**LLAMA, "kv_lora_rank": 512, "qk_rope_head_dim": 64})
    assert shape.latent == 576


def test_linear_layers_are_told_from_what_keeps_its_type() -> None:
    names = {
        "model.embed_tokens.weight": False,
        "lm_head.weight": False,
        "transformer.wte.weight": False,
        "model.layers.0.input_layernorm.weight": False,
        "model.layers.0.self_attn.q_proj.weight": True,
        "model.layers.0.self_attn.q_proj.bias": False,
        "model.layers.0.self_attn.q_norm.weight": False,
        "model.layers.0.mlp.gate_proj.weight": True,
        "model.layers.0.mlp.gate.weight": False,
        "model.layers.0.mlp.experts.7.down_proj.weight": True,
        "model.norm.weight": False,
        "transformer.h.0.ln_1.weight": False,
        "transformer.h.0.attn.c_attn.weight": True,
    }
    for name, quantizable in names.items():
        shape = of(LLAMA, StoredTensor(name, 100, 200))
        assert (shape.parameters, shape.weight_bytes) == (100, 200)
        assert shape.quantizable == (100 if quantizable else 0), name


@pytest.mark.parametrize("value", [-1, 0, True, "32", None, float("nan"), float("inf"), 1e300])
def test_numbers_that_make_no_sense_are_unknown(value: object) -> None:
    shape = of({**LLAMA, "num_hidden_layers": value}, StoredTensor("a.weight", 1, 2))
    assert shape.layers == 0
    assert not shape.known


def test_a_shape_is_known_when_all_is_there() -> None:
    assert of(LLAMA, StoredTensor("a.weight", 1, 2)).known
    assert not of(LLAMA).known
