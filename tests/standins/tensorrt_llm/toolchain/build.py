"""trtllm-build: an intermediate checkpoint in, an engine out."""

import argparse
import json
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from tensorrt_llm.models import MODEL_MAP  # type: ignore[import-not-found]  # the image's

from . import logs
from .checkpoints import read_avoided
from .engines import Plan, break_plan, write_config
from .gpus import visible_gpus
from .logs import say
from .orders import obey
from .texts import TEXTS

_DTYPES: Final = ("auto", "float16", "float32", "bfloat16", "int32", "disable")
_PLUGINS: Final = {
    "gpt_attention_plugin": ("auto", _DTYPES),
    "gemm_plugin": (None, (*_DTYPES, "fp8", "nvfp4")),
    "nccl_plugin": ("auto", _DTYPES),
    "lora_plugin": (None, _DTYPES),
    "moe_plugin": ("auto", _DTYPES),
    "mamba_conv1d_plugin": ("auto", _DTYPES),
    "gemm_swiglu_plugin": (None, ("fp8", "disable")),
    "low_latency_gemm_plugin": (None, ("fp8", "disable")),
}
_FEATURES: Final = {
    "context_fmha": "enable",
    "remove_input_padding": "enable",
    "use_paged_context_fmha": "enable",
    "use_fp8_context_fmha": "enable",
    "use_fused_mlp": "enable",
    "multiple_profiles": "disable",
    "reduce_fusion": "disable",
    "user_buffer": "disable",
    "streamingllm": "disable",
    "manage_weights": "disable",
    "pp_reduce_scatter": "disable",
}
_NOT_ON_BLACKWELL: Final = ("gemm_swiglu_plugin", "low_latency_gemm_plugin")
# The least compute capability that computes with the numbers of a quantization.
_LEAST_CAPABILITY: Final = {"FP8": (8, 9), "W4A8_AWQ": (8, 9), "NVFP4": (10, 0)}


def main() -> None:
    """Build an engine."""
    logs.announce()
    arguments = _arguments()
    started = time.monotonic()
    order = obey("build")
    pretrained = _read_checkpoint(arguments)
    build = _build_config(arguments, pretrained) | order.get("limits", {})
    engine = Path(arguments.output_dir)
    engine.mkdir(parents=True, exist_ok=True)
    world_size = pretrained["mapping"]["world_size"]
    for rank in range(world_size):
        logs.info(f"Compute capability: {_capability()}")
        logs.info(f"Building engine of rank {rank}")
        logs.info("Total time of building Unnamed Network 0: 00:00:00")
        plan = Plan(
            rank,
            _capability(),
            version("tensorrt"),
            pretrained["vocab_size"],
            read_avoided(Path(arguments.checkpoint_dir), rank),
        )
        plan.write(engine)
        logs.info(f"Serializing engine to {arguments.output_dir}/rank{rank}.engine...")
    if broken := order.get("truncate"):
        break_plan(engine, world_size - 1, "short" if broken is True else broken)
    write_config(engine, version("tensorrt_llm"), pretrained, build)
    logs.info(f"Total time of building all engines: {logs.duration(started)}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--checkpoint_dir")
    parser.add_argument("--output_dir", default="engine_outputs")
    for name in ("build_config", "model_cls_file", "model_cls_name", "input_timing_cache"):
        parser.add_argument(f"--{name}")
    parser.add_argument("--output_timing_cache", default="model.cache")
    limits = {"max_batch_size": 2048, "max_input_len": 1024, "max_beam_width": 1}
    limits |= {"max_num_tokens": 8192, "workers": 1, "max_lora_rank": 64, "max_draft_len": 0}
    for name, default in limits.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--max_seq_len", "--max_decoder_seq_len", type=int)
    parser.add_argument("--opt_num_tokens", type=int)
    parser.add_argument("--kv_cache_type", default="paged", type=_kv_cache_type)
    parser.add_argument("--paged_kv_cache", choices=("enable", "disable"))
    levels = ("internal_error", "error", "warning", "info", "verbose", "debug", "trace")
    parser.add_argument("--log_level", default="info", choices=levels)
    for name in ("strip_plan", "weight_streaming", "fast_build", "dry_run", "monitor_memory"):
        parser.add_argument(f"--{name}", action="store_true")
    parser.add_argument("--logits_dtype", choices=("float16", "float32"))
    for name in ("context", "generation", "all_token"):
        parser.add_argument(f"--gather_{name}_logits", action="store_true")
    parser.add_argument("--lora_dir", nargs="+")
    parser.add_argument("--lora_ckpt_source", default="hf", choices=("hf", "nemo"))
    parser.add_argument("--lora_target_modules", nargs="+")
    modes = ("draft_tokens_external", "lookahead_decoding", "medusa", "explicit_draft_tokens")
    parser.add_argument("--speculative_decoding_mode", choices=(*modes, "eagle"))
    plugins = parser.add_argument_group("Plugin config arguments")
    plugins.add_argument("--tokens_per_block", type=int, default=32)
    for name, (plugin, choices) in _PLUGINS.items():
        plugins.add_argument(f"--{name}", default=plugin, choices=choices)
    for name, feature in _FEATURES.items():
        plugins.add_argument(f"--{name}", default=feature, choices=("enable", "disable"))
    return parser.parse_args()


def _kv_cache_type(value: str) -> str:
    if value.lower() not in ("continuous", "paged", "disabled"):
        raise argparse.ArgumentTypeError(
            f"Invalid value '{value}'. Expected one of ['continuous', 'paged', 'disabled']"
        )
    return value.upper()


def _read_checkpoint(arguments: argparse.Namespace) -> dict[str, Any]:
    folder = Path(arguments.checkpoint_dir)
    pretrained: dict[str, Any] = json.loads((folder / "config.json").read_text())
    architecture = pretrained["architecture"]
    assert architecture in MODEL_MAP, f"Unsupported model architecture: {architecture}"
    algorithm = pretrained["quantization"]["quant_algo"]
    capability = tuple(map(int, _capability().split(".")))
    if capability < _LEAST_CAPABILITY.get(algorithm, (8, 0)):
        _fail(TEXTS["unsupported_sm"].replace("sm_120", "sm_{}{}".format(*capability)))
    if arguments.multiple_profiles == "enable" and arguments.opt_num_tokens is not None:
        raise RuntimeError("multiple_profiles is enabled, while opt_num_tokens is set.")
    for name in _NOT_ON_BLACKWELL:
        if capability >= (10, 0) and getattr(arguments, name) not in (None, "disable"):
            raise NotImplementedError(f"{name} is not supported on SM100")
    for rank in range(pretrained["mapping"]["world_size"]):
        (folder / f"rank{rank}.safetensors").stat()
    return pretrained


def _build_config(arguments: argparse.Namespace, pretrained: dict[str, Any]) -> dict[str, Any]:
    longest = pretrained["max_position_embeddings"] or 2048
    max_seq_len = arguments.max_seq_len or longest
    if arguments.max_input_len > max_seq_len:
        logs.warning(f"max_input_len {arguments.max_input_len} is larger than max_seq_len")
    dtype = pretrained["dtype"]
    plugins = {name: _value(getattr(arguments, name), dtype) for name in (*_PLUGINS, *_FEATURES)}
    return {
        "max_input_len": min(arguments.max_input_len, max_seq_len),
        "max_seq_len": max_seq_len,
        "opt_batch_size": 8,
        "max_batch_size": arguments.max_batch_size,
        "max_beam_width": arguments.max_beam_width,
        "max_num_tokens": arguments.max_num_tokens,
        "opt_num_tokens": arguments.opt_num_tokens or arguments.max_batch_size,
        "kv_cache_type": arguments.kv_cache_type,
        "gather_context_logits": arguments.gather_context_logits,
        "gather_generation_logits": arguments.gather_generation_logits,
        "strongly_typed": True,
        "lora_config": {"lora_target_modules": arguments.lora_target_modules or []},
        "plugin_config": plugins
        | {
            "dtype": dtype,
            "paged_kv_cache": arguments.kv_cache_type == "PAGED",
            "tokens_per_block": arguments.tokens_per_block,
        },
    }


def _value(argument: str | None, dtype: str) -> str | bool | None:
    words: dict[str | None, str | bool] = {"enable": True, "disable": False, "auto": dtype}
    return words.get(argument, argument)


def _capability() -> str:
    gpus = visible_gpus()
    if not gpus:
        raise RuntimeError("No CUDA GPUs are available")
    return gpus[0].capability


def _fail(message: str) -> None:
    say(message)
    say(f"AssertionError: {TEXTS['build_failed']}", sys.stderr)
    sys.exit(1)
