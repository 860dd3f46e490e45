"""Loading a checkpoint with transformers, the same way for the build and for serving."""

from pathlib import Path
from typing import Any, Final

import torch
from transformers import AutoModelForCausalLM, GenerationConfig, PretrainedConfig, PreTrainedModel

DTYPES: Final = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}

# What makes `generate` do something else than take one token after the other. Serving is neither
# beam search nor speculation, whatever the checkpoint's generation_config.json recommends; nor are
# its sampling defaults applied, since those of the API are documented. What changes the scores of a
# greedy choice (repetition_penalty, suppress_tokens, …) stays.
_NEUTRAL: Final[dict[str, Any]] = {
    "do_sample": False,
    "num_beams": 1,
    "num_return_sequences": 1,
    "temperature": None,
    "top_k": None,
    "top_p": None,
    "min_p": None,
    "top_h": None,
    "typical_p": None,
    "epsilon_cutoff": None,
    "eta_cutoff": None,
    "penalty_alpha": None,
    "dola_layers": None,
    "prompt_lookup_num_tokens": None,
    "assistant_early_exit": None,
    "constraints": None,
    "force_words_ids": None,
    "length_penalty": None,
    "early_stopping": None,
    "max_length": None,
    "max_new_tokens": None,
    "max_time": None,
    "stop_strings": None,
    "cache_implementation": None,
    "compile_config": None,
    "prefill_chunk_size": None,
    "output_scores": False,
    "output_logits": False,
    "output_attentions": False,
    "output_hidden_states": False,
    "return_dict_in_generate": False,
}


def load_model(
    directory: Path, precision: str | None, device: str
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """Return the model, ready to generate, and what transformers says of the loading.

    `precision` is a name of DTYPES or None for the checkpoint's own. Code that a checkpoint brings
    is never run, and nothing is fetched. What the weights lack of the model, or have in another
    shape, is told of and made up: a build refuses it.
    """
    model, said = AutoModelForCausalLM.from_pretrained(
        directory,
        dtype=DTYPES[precision] if precision else "auto",
        local_files_only=True,
        trust_remote_code=False,
        use_safetensors=True,
        ignore_mismatched_sizes=True,  # they are told of in words, instead of in the log
        output_loading_info=True,
    )
    model = model.to(device).eval()
    for name, value in _NEUTRAL.items():
        setattr(model.generation_config, name, value)
    return model, said


def end_ids_of(config: GenerationConfig) -> tuple[int, ...]:
    """Return the tokens that end an answer, as the checkpoint's generation settings name them."""
    ids = config.eos_token_id
    if ids is None:
        return ()
    return tuple(sorted(set(ids))) if isinstance(ids, list) else (int(ids),)


def name_of_dtype(dtype: torch.dtype) -> str:
    """Return the name as it stands in config.json, e.g. `float32`."""
    return str(dtype).removeprefix("torch.")


def own_context(config: PretrainedConfig) -> int | None:
    """Return the most tokens that the model can work with; None: it states no limit."""
    text = config.get_text_config()
    for name in ("max_position_embeddings", "max_seq_len", "n_positions", "n_ctx"):
        limit = getattr(text, name, None)
        if isinstance(limit, int) and limit > 0:
            return limit
    return None
