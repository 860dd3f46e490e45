"""The Triton model of an engine: the image's own template, filled in.

A copy of ours would be wrong with the next release: inputs get other names, and variables come to
be. So every variable of the template must be one that is known here. One that stands in a quoted
string may stay as it is, `"${name}"`, which means to the back end that it is not set; any other
must have a value, or the file could not be read at all.
"""

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import Any, Final

from engineshed.agent.engines.interface import EngineBuildError
from engineshed.triton.engine import MODEL_NAME, EngineManifest

KV_CACHE_FRACTION: Final = 0.9
"""Of what is free of a loaded engine, where an endpoint does not say."""

ENGINE_FOLDER: Final = "engine"
CHECKPOINT_FOLDER: Final = "checkpoint"
TOKENIZER_FOLDER: Final = "tokenizer"
TOKENIZER_INFO: Final = "guided/xgrammar_tokenizer_info.json"
"""What guided decoding has to know of the tokenizer, relative to the engine's folder."""

_QUEUE: Final = 4
"""So many times the batch may wait in Triton; the front turns away what exceeds it."""

_NEEDED: Final = frozenset({"engine_dir", "decoupled_mode", "triton_max_batch_size"})
"""A template without these does not do what is asked of it."""

_OPTIONAL: Final = frozenset(
    {
        "encoder_engine_dir",
        "max_tokens_in_paged_kv_cache",
        "max_attention_window_size",
        "sink_token_length",
        "cross_kv_cache_fraction",
        "kv_cache_host_memory_bytes",
        "kv_cache_onboard_blocks",
        "enable_trt_overlap",
        "cancellation_check_period_ms",
        "stats_check_period_ms",
        "recv_poll_period_ms",
        "iter_stats_max_iterations",
        "request_stats_max_iterations",
        "participant_ids",
        "num_nodes",
        "lora_cache_optimal_adapter_size",
        "lora_cache_max_adapter_size",
        "lora_cache_gpu_memory_fraction",
        "lora_cache_host_memory_bytes",
        "lora_prefetch_dir",
        "decoding_mode",
        "lookahead_window_size",
        "lookahead_ngram_size",
        "lookahead_verification_set_size",
        "medusa_choices",
        "eagle_choices",
        "speculative_decoding_fast_logits",
        "gpu_weights_percent",
        "enable_context_fmha_fp32_acc",
        "multi_block_mode",
        "cuda_graph_mode",
        "cuda_graph_cache_size",
        "tokenizer_dir",
        "guided_decoding_backend",
        "xgrammar_tokenizer_info_path",
        "executor_worker_path",
        "prompt_embedding_table_data_type",
    }
)
"""Variables that may stay unset where they stand in a quoted string."""

_PIECES: Final = re.compile(
    r'(?P<string>"(?:[^"\\\n]|\\.)*"|\'(?:[^\'\\\n]|\\.)*\')|(?P<comment>#[^\n]*)|\$\{(?P<bare>\w+)\}'
)
_VARIABLE: Final = re.compile(r"\$\{(\w+)\}")


class _Braced(Template):
    """A template whose variables stand in braces only; a `$` otherwise is itself."""

    pattern = r"\$(?:\{(?P<braced>\w+)\}|(?P<named>(?!))|(?P<escaped>(?!))|(?P<invalid>(?!)))"  # type: ignore[assignment]  # Template makes a pattern of it


def render_compiled(
    template: str,
    engine: Path,
    manifest: EngineManifest,
    built: Mapping[str, Any],
    kv_cache_fraction: float | None,
    worker: Path | None,
) -> str:
    """Return the config.pbtxt that serves a compiled engine.

    Args:
        template: the image's.
        engine: the folder of the engine with its manifest.
        manifest: what engine.json says.
        built: `build_config` of the engine's own config.json.
        kv_cache_fraction: what keys and values take of what is free; None: the default.
        worker: trtllmExecutorWorker, where it is known.

    Raises:
        EngineBuildError: RENDER_BUG, the template is not as it is known to be.

    """
    plugins = built.get("plugin_config") or {}
    # Neither goes without fused attention over pages.
    paged = _true(bool(plugins.get("use_paged_context_fmha")))
    size = manifest.max_concurrent
    values = {
        "triton_backend": "tensorrtllm",
        "triton_max_batch_size": str(built["max_batch_size"]),
        "decoupled_mode": "True",
        "max_queue_delay_microseconds": "0",
        "max_queue_size": str(_QUEUE * size),
        "encoder_input_features_data_type": "TYPE_FP16",
        "prompt_embedding_table_data_type": "TYPE_FP16",
        "logits_datatype": "TYPE_FP32",
        "batching_strategy": "inflight_fused_batching",
        "engine_dir": str(engine / ENGINE_FOLDER),
        "max_beam_width": str(built["max_beam_width"]),
        "batch_scheduler_policy": "guaranteed_no_evict",
        "kv_cache_free_gpu_mem_fraction": str(kv_cache_fraction or KV_CACHE_FRACTION),
        "exclude_input_in_output": "True",
        # Else they are of the tokens that top_k leaves: of one alone, when the likeliest is taken.
        "normalize_log_probs": "False",
        "enable_kv_cache_reuse": paged,
        "enable_chunked_context": paged,
        # The process sees its replica's GPUs alone, numbered from zero.
        "gpu_device_ids": ",".join(map(str, range(manifest.world_size))),
    }
    if worker is not None:
        values["executor_worker_path"] = str(worker)
    if manifest.guided_decoding:
        values["guided_decoding_backend"] = "xgrammar"
        values["xgrammar_tokenizer_info_path"] = str(engine / TOKENIZER_INFO)
    return fill_in(template, values)


def fill_in(template: str, values: Mapping[str, str]) -> str:
    """Return the template with its variables replaced.

    Raises:
        EngineBuildError: RENDER_BUG, with the variables that are not as they are known to be.

    """
    quoted, bare = _variables(template)
    unknown = sorted((quoted | bare) - values.keys() - _OPTIONAL)
    unset = sorted(bare - values.keys() - set(unknown))
    lacking = sorted(_NEEDED - quoted - bare)
    troubles = {
        "it has variables that this release does not know": unknown,
        "variables outside of a quoted string have no value": unset,
        "it lacks": lacking,
    }
    if told := [f"{what}: {', '.join(names)}" for what, names in troubles.items() if names]:
        raise EngineBuildError(
            "RENDER_BUG",
            f"the image's template of the tensorrt_llm model is another one: {'; '.join(told)}",
            retryable=False,
        )
    escaped = {name: json.dumps(value, ensure_ascii=False)[1:-1] for name, value in values.items()}
    return _Braced(template).safe_substitute(escaped)


def write_compiled(repository: Path, configuration: str) -> None:
    """Write the model repository of a compiled engine."""
    model = repository / MODEL_NAME
    (model / "1").mkdir(parents=True, exist_ok=True)
    (model / "config.pbtxt").write_text(configuration, encoding="utf-8")


def write_interpreted(
    template: Path,
    engine: Path,
    manifest: EngineManifest,
    repository: Path,
    kv_cache_fraction: float | None,
) -> None:
    """Write the model repository of a checkpoint that the LLM API serves.

    Args:
        template: the folder of the image's model.
        engine: the folder of the engine with its manifest.
        manifest: what engine.json says.
        repository: where it goes.
        kv_cache_fraction: what keys and values take of what is free; None: the default.

    """
    model = repository / MODEL_NAME
    shutil.copytree(template, model, dirs_exist_ok=True)
    arguments = {
        "model": str(engine / CHECKPOINT_FOLDER),
        "backend": "pytorch",
        "dtype": manifest.dtype,
        "tensor_parallel_size": manifest.world_size,
        "max_batch_size": manifest.max_concurrent,
        "max_num_tokens": manifest.max_batch_tokens,
        "max_seq_len": manifest.max_context,
        "enable_chunked_prefill": True,
        "kv_cache_config": {
            "free_gpu_memory_fraction": kv_cache_fraction or KV_CACHE_FRACTION,
            "enable_block_reuse": True,
        },
        "triton_config": {"max_batch_size": 0, "decoupled": True},
    }
    # JSON is YAML, too.
    (model / "1" / "model.yaml").write_text(json.dumps(arguments, indent=2) + "\n")
    # The model says so itself, where it may complete its configuration; it must where it may not.
    configuration = model / "config.pbtxt"
    text = configuration.read_text(encoding="utf-8")
    if "model_transaction_policy" not in text:
        text += "\nmodel_transaction_policy { decoupled: true }\n"
        configuration.write_text(text, encoding="utf-8")


def _variables(template: str) -> tuple[set[str], set[str]]:
    """Return the variables in quoted strings, and those outside."""
    quoted: set[str] = set()
    bare: set[str] = set()
    for piece in _PIECES.finditer(template):
        if piece["bare"]:
            bare.add(piece["bare"])
        elif piece["string"]:
            quoted.update(_VARIABLE.findall(piece["string"]))
    return quoted, bare


def _true(value: bool) -> str:
    return "true" if value else "false"
