"""The templates of Triton models in the image: NVIDIA's tensors and variables, in our words."""

from dataclasses import dataclass
from typing import Final

# By name: the type, the dimensions, and ` ragged` or ` scalar` (one value per request).
_INPUTS: Final = {
    "input_ids": "INT32 [ -1 ] ragged",
    "encoder_input_features": "${encoder_input_features_data_type} [ -1, -1 ] ragged",
    "encoder_output_lengths": "INT32 [ 1 ] scalar",
    "input_lengths": "INT32 [ 1 ] scalar",
    "request_output_len": "INT32 [ 1 ] scalar",
    "num_return_sequences": "INT32 [ 1 ] scalar",
    "draft_input_ids": "INT32 [ -1 ] ragged",
    "decoder_input_ids": "INT32 [ -1 ] ragged",
    "decoder_input_lengths": "INT32 [ 1 ] scalar",
    "draft_logits": "${logits_datatype} [ -1, -1 ] ragged",
    "draft_acceptance_threshold": "FP32 [ 1 ] scalar",
    "end_id": "INT32 [ 1 ] scalar",
    "pad_id": "INT32 [ 1 ] scalar",
    "stop_words_list": "INT32 [ 2, -1 ] ragged",
    "bad_words_list": "INT32 [ 2, -1 ] ragged",
    "embedding_bias": "FP32 [ -1 ] ragged",
    "beam_width": "INT32 [ 1 ] scalar",
    "temperature": "FP32 [ 1 ] scalar",
    "runtime_top_k": "INT32 [ 1 ] scalar",
    "runtime_top_p": "FP32 [ 1 ] scalar",
    "runtime_top_p_min": "FP32 [ 1 ] scalar",
    "runtime_top_p_decay": "FP32 [ 1 ] scalar",
    "runtime_top_p_reset_ids": "INT32 [ 1 ] scalar",
    "len_penalty": "FP32 [ 1 ] scalar",
    "early_stopping": "BOOL [ 1 ] scalar",
    "repetition_penalty": "FP32 [ 1 ] scalar",
    "min_tokens": "INT32 [ 1 ] scalar",
    "beam_search_diversity_rate": "FP32 [ 1 ] scalar",
    "presence_penalty": "FP32 [ 1 ] scalar",
    "frequency_penalty": "FP32 [ 1 ] scalar",
    "seed": "UINT64 [ 1 ] scalar",
    "return_log_probs": "BOOL [ 1 ] scalar",
    "return_context_logits": "BOOL [ 1 ] scalar",
    "return_generation_logits": "BOOL [ 1 ] scalar",
    "return_perf_metrics": "BOOL [ 1 ] scalar",
    "return_num_input_tokens": "BOOL [ 1 ] scalar",
    "return_num_output_tokens": "BOOL [ 1 ] scalar",
    "exclude_input_in_output": "BOOL [ 1 ] scalar",
    "stop": "BOOL [ 1 ] scalar",
    "streaming": "BOOL [ 1 ] scalar",
    "prompt_embedding_table": "${prompt_embedding_table_data_type} [ -1, -1 ] ragged",
    "prompt_table_extra_ids": "UINT64 [ -1 ] ragged",
    "prompt_vocab_size": "INT32 [ 1 ] scalar",
    "cross_attention_mask": "BOOL [ -1, -1 ] ragged",
    "lora_task_id": "UINT64 [ 1 ] scalar",
    "lora_weights": "FP16 [ -1, -1 ] ragged",
    "lora_config": "INT32 [ -1, 3 ] ragged",
    "context_phase_params": "UINT8 [ -1 ] ragged",
    "skip_cross_attn_blocks": "BOOL [ 1 ] ragged",
    "retention_token_range_starts": "INT32 [ -1 ] ragged",
    "retention_token_range_ends": "INT32 [ -1 ] ragged",
    "retention_token_range_priorities": "INT32 [ -1 ] ragged",
    "retention_token_range_durations_ms": "INT32 [ -1 ] ragged",
    "retention_decode_priority": "INT32 [ 1 ] ragged",
    "retention_decode_duration_ms": "INT32 [ 1 ] ragged",
    "guided_decoding_guide_type": "STRING [ 1 ] ragged",
    "guided_decoding_guide": "STRING [ 1 ] ragged",
    "lookahead_window_size": "INT32 [ 1 ] ragged",
    "lookahead_ngram_size": "INT32 [ 1 ] ragged",
    "lookahead_verification_set_size": "INT32 [ 1 ] ragged",
}
_REQUIRED: Final = ("input_lengths", "request_output_len")
_OLDER_NAMES: Final = {
    "seed": "random_seed",
    "min_tokens": "min_length",
    "return_perf_metrics": "return_kv_cache_reuse_stats",
}
_NOT_IN_OLDER: Final = ("guided_decoding", "retention", "lookahead", "return_num", "num_return")
_OUTPUTS: Final = {
    "output_ids": "INT32 [ -1, -1 ]",
    "sequence_length": "INT32 [ -1 ]",
    "cum_log_probs": "FP32 [ -1 ]",
    "output_log_probs": "FP32 [ -1, -1 ]",
    "context_logits": "${logits_datatype} [ -1, -1 ]",
    "generation_logits": "${logits_datatype} [ -1, -1, -1 ]",
    "batch_index": "INT32 [ 1 ]",
    "sequence_index": "INT32 [ 1 ]",
    "context_phase_params": "UINT8 [ -1 ]",
    "kv_cache_alloc_new_blocks": "INT32 [ 1 ]",
    "kv_cache_reused_blocks": "INT32 [ 1 ]",
    "kv_cache_alloc_total_blocks": "INT32 [ 1 ]",
}
_NEWER_OUTPUTS: Final = {
    "arrival_time_ns": "INT64 [ 1 ]",
    "first_scheduled_time_ns": "INT64 [ 1 ]",
    "first_token_time_ns": "INT64 [ 1 ]",
    "last_token_time_ns": "INT64 [ 1 ]",
    "acceptance_rate": "FP32 [ 1 ]",
    "total_accepted_draft_tokens": "INT32 [ 1 ]",
    "total_draft_tokens": "INT32 [ 1 ]",
    "num_input_tokens": "INT32 [ 1 ]",
    "num_output_tokens": "INT32 [ 1 ]",
}
# By the parameter's key: the variable of the template, where it has another name.
_RENAMED: Final = {
    "gpt_model_type": "batching_strategy",
    "gpt_model_path": "engine_dir",
    "encoder_model_path": "encoder_engine_dir",
}
_PARAMETERS: Final = (
    *("gpt_model_type", "gpt_model_path", "encoder_model_path", "max_beam_width"),
    *("max_tokens_in_paged_kv_cache", "max_attention_window_size", "sink_token_length"),
    *("batch_scheduler_policy", "kv_cache_free_gpu_mem_fraction", "cross_kv_cache_fraction"),
    *("kv_cache_host_memory_bytes", "kv_cache_onboard_blocks", "enable_trt_overlap"),
    *("exclude_input_in_output", "cancellation_check_period_ms", "stats_check_period_ms"),
    *("recv_poll_period_ms", "iter_stats_max_iterations", "request_stats_max_iterations"),
    *("enable_kv_cache_reuse", "normalize_log_probs", "enable_chunked_context"),
    *("gpu_device_ids", "participant_ids", "num_nodes", "lora_cache_optimal_adapter_size"),
    *("lora_cache_max_adapter_size", "lora_cache_gpu_memory_fraction"),
    *("lora_cache_host_memory_bytes", "lora_prefetch_dir", "decoding_mode"),
    *("lookahead_window_size", "lookahead_ngram_size", "lookahead_verification_set_size"),
    *("medusa_choices", "eagle_choices", "gpu_weights_percent"),
    *("enable_context_fmha_fp32_acc", "multi_block_mode", "cuda_graph_mode"),
    *("cuda_graph_cache_size", "speculative_decoding_fast_logits", "tokenizer_dir"),
    *("guided_decoding_backend", "xgrammar_tokenizer_info_path"),
)
_LITERALS: Final = {
    "FORCE_CPU_ONLY_INPUT_TENSORS": "no",
    "executor_worker_path": "/opt/tritonserver/backends/tensorrtllm/trtllmExecutorWorker",
}
_HEADER: Final = """\
name: "tensorrt_llm"
backend: "${triton_backend}"
runtime: "model.py"  # of the stand-in; NVIDIA's is a library
max_batch_size: ${triton_max_batch_size}

model_transaction_policy {
  decoupled: ${decoupled_mode}
}

dynamic_batching {
  preferred_batch_size: [ ${triton_max_batch_size} ]
  max_queue_delay_microseconds: ${max_queue_delay_microseconds}
  default_queue_policy: { max_queue_size: ${max_queue_size} }
}

instance_group [
  { count: 1 kind: KIND_CPU }
]
"""


@dataclass(frozen=True)
class Template:
    """Which release's template of the in-flight batcher it is."""

    older: bool = False
    """With the names that some inputs had, and without those that came later."""
    extra_variable: bool = False
    """With `${something_new}`, which must be replaced, and which nobody has heard of."""

    def text(self) -> str:
        """Return config.pbtxt, with the variables still in it."""
        outputs = _OUTPUTS if self.older else _OUTPUTS | _NEWER_OUTPUTS
        parts = [
            _HEADER,
            _block("input", [_input(name, kind) for name, kind in self._inputs().items()]),
            _block("output", [_tensor(name, kind) for name, kind in outputs.items()]),
            *(_parameter(key, f"${{{_RENAMED.get(key, key)}}}") for key in _PARAMETERS),
            *(_parameter(key, value) for key, value in _LITERALS.items()),
        ]
        if self.extra_variable:
            parts.append("optimization { priority: ${something_new} }\n")
        return "".join(parts)

    def _inputs(self) -> dict[str, str]:
        if not self.older:
            return _INPUTS
        kept = {
            _OLDER_NAMES.get(name, name): kind
            for name, kind in _INPUTS.items()
            if not name.startswith(_NOT_IN_OLDER)
        }
        return kept | {"prompt_embedding_table": "FP16 [ -1, -1 ] ragged"}


CURRENT: Final = Template()


def _block(name: str, tensors: list[str]) -> str:
    return f"\n{name} [\n  " + ",\n  ".join(tensors) + "\n]\n"


def _input(name: str, described: str) -> str:
    kind, _, form = described.rpartition(" ")
    more = " reshape: { shape: [ ] }" if form == "scalar" else " allow_ragged_batch: true"
    if name not in _REQUIRED:
        more += " optional: true"
    return _tensor(name, kind, more)


def _tensor(name: str, kind: str, more: str = "") -> str:
    data_type, _, dims = kind.partition(" ")
    if not data_type.startswith("$"):
        data_type = f"TYPE_{data_type}"
    return f'{{ name: "{name}" data_type: {data_type} dims: {dims}{more} }}'


def _parameter(key: str, value: str) -> str:
    return f'parameters: {{ key: "{key}" value: {{ string_value: "{value}" }} }}\n'


_TEXT_INPUTS: Final = {
    "text_input": "STRING [ -1 ]",
    "streaming": "BOOL [ 1 ]",
    "sampling_param_best_of": "INT32 [ 1 ]",
    "sampling_param_temperature": "FP32 [ 1 ]",
    "sampling_param_top_k": "INT32 [ 1 ]",
    "sampling_param_top_p": "FP32 [ 1 ]",
    "sampling_param_frequency_penalty": "FP32 [ 1 ]",
    "sampling_param_presence_penalty": "FP32 [ 1 ]",
    "sampling_param_max_tokens": "INT32 [ 1 ]",
    "sampling_param_stop": "STRING [ -1 ]",
    "sampling_param_seed": "UINT64 [ 1 ]",
    "sampling_param_exclude_input_from_output": "BOOL [ 1 ]",
    "sampling_param_return_perf_metrics": "BOOL [ 1 ]",
    "return_finish_reason": "BOOL [ 1 ]",
    "return_stop_reason": "BOOL [ 1 ]",
    "return_cumulative_logprob": "BOOL [ 1 ]",
    "stop": "BOOL [ 1 ]",
}
_TEXT_OUTPUTS: Final = {
    "text_output": "STRING [ -1 ]",
    "finish_reason": "STRING [ -1 ]",
    "stop_reason": "STRING [ -1 ]",
    "cumulative_logprob": "FP32 [ -1 ]",
}


def llmapi_config() -> str:
    """Return the config.pbtxt of the model around the LLM API; the rest is in its model.yaml."""
    inputs = [
        _tensor(name, kind, "" if name == "text_input" else " optional: true")
        for name, kind in _TEXT_INPUTS.items()
    ]
    return (
        'name: "tensorrt_llm"\nbackend: "python"\ninstance_group [ { count: 1 kind: KIND_CPU } ]\n'
        + _block("input", inputs)
        + _block("output", [_tensor(name, kind) for name, kind in _TEXT_OUTPUTS.items()])
    )
