"""Engines for the stand-in for NVIDIA's image, as a back end would have built and rendered them."""

import json
import shutil
import string
from pathlib import Path
from typing import Any

from tests.standins.tensorrt_llm import StandInImage
from tests.standins.tensorrt_llm.toolchain.engines import Plan, write_config

from engineshed.triton.engine import MODEL_NAME

from .fronts import CHAT_TEMPLATE, END_ID, MANIFEST, MAX_CONTEXT, byte_tokenizer, few

VOCABULARY = 270
PRINTABLE = range(32, 127)
MAX_PROMPT = 300
"""What the engine takes in one step, and so of a prompt."""


def write_compiled_engine(
    image: StandInImage, folder: Path, *, ranks: int = 1
) -> tuple[Path, Path]:
    """Write an engine of token ids and its model repository; return both."""
    manifest = few(
        MANIFEST,
        backend="tensorrt_llm",
        engine_kind="tensorrt",
        world_size=ranks,
        guided_decoding=True,
        eos_token_ids=(END_ID, END_ID + 1),
    )
    engine = folder / "engine"
    byte_tokenizer(chat_template=CHAT_TEMPLATE).save_pretrained(engine / "tokenizer")
    manifest.sealed({}).write(engine)
    write_config(engine, "1.2.1", _pretrained(ranks), _BUILD)
    avoided = [token for token in range(VOCABULARY) if token not in PRINTABLE]
    for rank in range(ranks):
        Plan(rank, "9.0", "10.14.1.48", VOCABULARY, avoided).write(engine)
    tokenizer = (engine / "tokenizer" / "tokenizer.json").read_text()
    info = engine / "xgrammar_tokenizer_info.json"
    info.write_text(json.dumps({"tokenizer_str": tokenizer}))
    repository = folder / "repository"
    (repository / MODEL_NAME / "1").mkdir(parents=True)
    template = image.app / "all_models" / "inflight_batcher_llm" / MODEL_NAME / "config.pbtxt"
    values = _VALUES | {"engine_dir": str(engine), "xgrammar_tokenizer_info_path": str(info)}
    rendered = string.Template(template.read_text()).safe_substitute(values)
    (repository / MODEL_NAME / "config.pbtxt").write_text(rendered)
    return engine, repository


def write_text_engine(image: StandInImage, folder: Path) -> tuple[Path, Path]:
    """Write an engine of the LLM API and its model repository; return both."""
    manifest = few(MANIFEST, backend="tensorrt_llm", interface="text", world_size=2)
    engine = folder / "engine"
    byte_tokenizer(chat_template=CHAT_TEMPLATE).save_pretrained(engine / "tokenizer")
    # The LLM API reads the checkpoint as it is.
    byte_tokenizer(chat_template=CHAT_TEMPLATE).save_pretrained(engine)
    config = {"architectures": ["LlamaForCausalLM"], "vocab_size": VOCABULARY}
    config["max_position_embeddings"] = MAX_CONTEXT
    (engine / "config.json").write_text(json.dumps(config))
    manifest.sealed({}).write(engine)
    repository = folder / "repository"
    shutil.copytree(image.app / "all_models" / "llmapi", repository)
    settings: dict[str, Any] = {"model": str(engine), "backend": "pytorch"}
    settings |= {"tensor_parallel_size": 2, "pipeline_parallel_size": 1}
    settings["triton_config"] = {"max_batch_size": 0, "decoupled": True}
    # JSON is YAML. The file in the image is a link to what all share.
    model = repository / MODEL_NAME / "1" / "model.yaml"
    model.unlink()
    model.write_text(json.dumps(settings))
    return engine, repository


def _pretrained(ranks: int) -> dict[str, Any]:
    return {
        "num_hidden_layers": 2,
        "num_key_value_heads": 2,
        "head_size": 16,
        "mapping": {"world_size": ranks, "tp_size": ranks, "pp_size": 1},
    }


_BUILD: dict[str, Any] = {
    "max_batch_size": 4,
    "max_input_len": MAX_CONTEXT - 1,
    "max_seq_len": MAX_CONTEXT,
    "max_num_tokens": MAX_PROMPT,
    "max_beam_width": 1,
    "plugin_config": {"remove_input_padding": True, "context_fmha": True, "tokens_per_block": 32},
}
_VALUES = {
    "triton_backend": "tensorrtllm",
    "triton_max_batch_size": "4",
    "decoupled_mode": "True",
    "max_queue_delay_microseconds": "0",
    "max_queue_size": "8",
    "encoder_input_features_data_type": "TYPE_FP16",
    "logits_datatype": "TYPE_FP32",
    "prompt_embedding_table_data_type": "TYPE_FP16",
    "max_tokens_in_paged_kv_cache": "6400",
    "guided_decoding_backend": "xgrammar",
}
