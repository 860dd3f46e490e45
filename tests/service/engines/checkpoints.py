"""Tiny checkpoints with random weights, of many architectures."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE, WordLevel
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

VOCABULARY = 300
END_ID = 2
MAX_CONTEXT = 256

_LLAMA_LIKE: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": MAX_CONTEXT,
}
_GPT2_LIKE: dict[str, Any] = {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": MAX_CONTEXT}
_BERT_LIKE: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": MAX_CONTEXT,
}

_SPECIAL = {"<pad>": 0, "<s>": 1, "</s>": END_ID}

SIZES: dict[str, dict[str, Any]] = {
    "llama": _LLAMA_LIKE,
    "qwen2": _LLAMA_LIKE,
    "mistral": {**_LLAMA_LIKE, "sliding_window": 16},
    "gemma2": {**_LLAMA_LIKE, "sliding_window": 16},
    "gemma3_text": {**_LLAMA_LIKE, "sliding_window": 16},
    "mixtral": {**_LLAMA_LIKE, "num_local_experts": 4},
    "phi": {**_BERT_LIKE, "intermediate_size": 128},
    "gpt_neox": {**_BERT_LIKE, "intermediate_size": 128},
    "opt": {**_BERT_LIKE, "ffn_dim": 128, "word_embed_proj_dim": 64},
    "gpt2": _GPT2_LIKE,
    "gptj": {**_GPT2_LIKE, "rotary_dim": 8},
    "mpt": {"d_model": 64, "n_layers": 2, "n_heads": 4, "max_seq_len": MAX_CONTEXT},
    "bloom": {"hidden_size": 64, "n_layer": 2, "n_head": 4},
    "falcon": _BERT_LIKE,
    "mamba": {"hidden_size": 64, "num_hidden_layers": 2, "state_size": 8},
    "lfm2": {**_LLAMA_LIKE, "layer_types": ["conv", "full_attention"]},
    "recurrent_gemma": {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "lru_width": 64,
        "attention_window_size": 16,
    },
}


def write_checkpoint(
    kind: str,
    directory: Path,
    *,
    tokenizer: bool = True,
    dtype: torch.dtype = torch.float32,
    generation: dict[str, Any] | None = None,
    scale: float = 3.0,
    **more: Any,
) -> Path:
    """Write a checkpoint with the same random weights each time; `more` is its configuration's.

    Fresh weights are so small that all tokens are about equally likely; `scale` makes them larger.
    """
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        kind,
        vocab_size=VOCABULARY,
        bos_token_id=1,
        eos_token_id=END_ID,
        pad_token_id=0,
        **SIZES[kind],
        **more,
    )
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for weights in model.parameters():
            if weights.dim() > 1:
                weights.mul_(scale)
    for name, value in (generation or {}).items():
        setattr(model.generation_config, name, value)
    model.to(dtype).save_pretrained(directory)
    if tokenizer:
        _tokenizer().save_pretrained(directory)
    return directory


def _tokenizer() -> PreTrainedTokenizerFast:
    words = {f"w{number}": number for number in range(len(_SPECIAL), VOCABULARY)}
    tokenizer = Tokenizer(WordLevel({**_SPECIAL, **words}, unk_token="w3"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return _fast(tokenizer)


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer that has a token for every byte, as real ones do, and no others."""
    names = [*_SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(BPE({name: number for number, name in enumerate(names)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return _fast(tokenizer)


def _fast(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
