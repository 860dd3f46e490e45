"""Hugging Face checkpoints in, TensorRT-LLM's intermediate checkpoints out."""

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file
from tokenizers import Tokenizer

_NAMES: Final = {
    "hidden_size": ("hidden_size", "n_embd", "d_model"),
    "intermediate_size": ("intermediate_size", "n_inner", "ffn_dim"),
    "num_hidden_layers": ("num_hidden_layers", "n_layer", "n_layers"),
    "num_attention_heads": ("num_attention_heads", "n_head", "n_heads"),
    "max_position_embeddings": ("max_position_embeddings", "n_positions", "max_seq_len"),
    "vocab_size": ("vocab_size",),
}
_AVOIDED: Final = "tokens that are no text"
_GROUPED: Final = ("W4A16_AWQ", "W4A8_AWQ", "W4A16_GPTQ", "W8A16_GPTQ")
# Where the checkpoint has no value of its own.
_DEFAULTS: Final = {"intermediate_size": None, "max_position_embeddings": None}


def architecture_of(model_dir: str) -> str:
    """Return the model class that a Hugging Face checkpoint names."""
    return str(_hugging_face(model_dir)["architectures"][0])


def pretrained_config(
    model_dir: str,
    *,
    dtype: str,
    tp_size: int,
    pp_size: int,
    quant_algo: str | None,
    kv_cache_quant_algo: str | None,
    group_size: int = 128,
) -> dict[str, Any]:
    """Return what config.json of the intermediate checkpoint says."""
    source = _hugging_face(model_dir)
    sizes = {name: _first(source, name, others) for name, others in _NAMES.items()}
    heads = sizes["num_attention_heads"]
    assert heads % tp_size == 0, "num_attention_heads must be divisible by tp_size"
    own = source.get("torch_dtype") or source.get("dtype") or "float16"
    if dtype == "auto":
        dtype = "float16" if own == "float32" else own
    mine: dict[str, Any] = {
        "producer": {"name": "modelopt" if quant_algo else "tensorrt_llm", "version": _version()},
        "architecture": source["architectures"][0],
        "dtype": dtype,
        "logits_dtype": "float32",
        "num_key_value_heads": source.get("num_key_value_heads") or heads,
        "head_size": source.get("head_dim") or sizes["hidden_size"] // heads,
        "position_embedding_type": "rope_gpt_neox",
        "hidden_act": source.get("hidden_act", "gelu"),
        "mapping": {
            "world_size": tp_size * pp_size,
            "gpus_per_node": 8,
            "cp_size": 1,
            "tp_size": tp_size,
            "pp_size": pp_size,
            "moe_tp_size": tp_size,
            "moe_ep_size": 1,
        },
        "quantization": {
            "quant_algo": quant_algo,
            "kv_cache_quant_algo": kv_cache_quant_algo,
            "group_size": group_size if quant_algo in _GROUPED else None,
            "has_zero_point": False,
            "pre_quant_scale": quant_algo in ("W4A16_AWQ", "W4A8_AWQ"),
            "exclude_modules": ["lm_head"] if quant_algo else None,
        },
    }
    return sizes | mine


def write_checkpoint(model_dir: str, output_dir: Path, config: dict[str, Any]) -> None:
    """Write an intermediate checkpoint; its weights are a few numbers only."""
    output_dir.mkdir(parents=True, exist_ok=True)
    (output_dir / "config.json").write_text(json.dumps(config, indent=4))
    weights = {"transformer.vocab_embedding.weight": np.zeros((4, 4), np.float16)}
    for rank in range(config["mapping"]["world_size"]):
        file = output_dir / f"rank{rank}.safetensors"
        save_file(weights, file, metadata={_AVOIDED: json.dumps(tokens_of_no_text(model_dir))})


def read_avoided(checkpoint_dir: Path, rank: int) -> list[int]:
    """Return the tokens that are no text, as they were when the checkpoint was converted."""
    with safe_open(checkpoint_dir / f"rank{rank}.safetensors", "numpy") as weights:
        avoided: list[int] = json.loads(weights.metadata()[_AVOIDED])
    return avoided


def tokens_of_no_text(model_dir: str) -> list[int]:
    """Return the ids that alone are no text: special tokens, and parts of characters."""
    file = Path(model_dir) / "tokenizer.json"
    if not file.exists():
        return []
    tokenizer = Tokenizer.from_file(str(file))
    ids = range(int(_hugging_face(model_dir)["vocab_size"]))
    texts = tokenizer.decode_batch([[token] for token in ids], skip_special_tokens=True)
    return [token for token in ids if not texts[token] or "\ufffd" in texts[token]]


def _hugging_face(model_dir: str) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((Path(model_dir) / "config.json").read_text())
    nested: dict[str, Any] = config.get("text_config", {})
    return config | nested


def _first(source: dict[str, Any], name: str, others: tuple[str, ...]) -> Any:
    for other in others:
        if source.get(other) is not None:
            return source[other]
    return _DEFAULTS[name]


def _version() -> str:
    return version("tensorrt_llm")
