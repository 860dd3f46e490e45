"""convert_checkpoint.py: each family of models has a script with arguments of its own."""

import argparse
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Final

from . import logs
from .checkpoints import architecture_of, pretrained_config, write_checkpoint
from .logs import say
from .orders import obey

_DTYPES: Final = ("auto", "float16", "bfloat16", "float32")
_WEIGHT_ONLY: Final = {
    "int8": "W8A16",
    "int4": "W4A16",
    "int8_gptq": "W8A16_GPTQ",
    "int4_gptq": "W4A16_GPTQ",
    "int4_awq": "W4A16_AWQ",
    "w4a8_awq": "W4A8_AWQ",
    "w4a16_awq": "W4A16_AWQ",
}
_SMOOTHED: Final = {  # by whether scales are per channel, and per token
    (False, False): "W8A8_SQ_PER_TENSOR_PLUGIN",
    (False, True): "W8A8_SQ_PER_TENSOR_PER_TOKEN_PLUGIN",
    (True, False): "W8A8_SQ_PER_CHANNEL_PER_TENSOR_PLUGIN",
    (True, True): "W8A8_SQ_PER_CHANNEL_PER_TOKEN_PLUGIN",
}


@dataclass(frozen=True)
class Family:
    """What the script of a family takes, beside what all take."""

    architectures: tuple[str, ...]
    numbers: tuple[str, ...]
    switches: tuple[str, ...]
    precisions: tuple[str, ...]
    paths: tuple[str, ...] = ()
    pipeline: bool = True


_SMOOTHING: Final = ("per_channel", "per_token", "int8_kv_cache")

FAMILIES: Final = {
    "llama": Family(
        ("LlamaForCausalLM", "MistralForCausalLM", "MixtralForCausalLM"),
        ("cp_size", "moe_tp_size", "moe_ep_size", "group_size", "embedding_sharding_dim"),
        (
            *_SMOOTHING,
            *("fp8_kv_cache", "use_fp8", "use_nvfp4", "use_fp8_rowwise", "use_qserve"),
            *("per_group", "use_parallel_embedding", "load_by_shard", "load_model_on_cpu"),
            *("save_config_only", "remove_duplicated_kv_heads"),
        ),
        ("int8", "int4", "int8_gptq", "int4_gptq", "int4_awq"),
        ("quant_ckpt_path",),
    ),
    "qwen": Family(
        ("Qwen2ForCausalLM", "Qwen2MoeForCausalLM", "Qwen3ForCausalLM", "Qwen3MoeForCausalLM"),
        ("cp_size", "moe_tp_size", "moe_ep_size", "group_size", "embedding_sharding_dim"),
        (
            *_SMOOTHING,
            *("disable_weight_only_quant_plugin", "per_group", "use_parallel_embedding"),
            "load_model_on_cpu",
        ),
        ("int8", "int4", "int4_gptq", "int8_gptq"),
        ("calib_dataset",),
    ),
    "gpt": Family(
        ("GPT2LMHeadModel", "GPTBigCodeForCausalLM", "Starcoder2ForCausalLM"),
        ("embedding_sharding_dim",),
        (*_SMOOTHING, "use_parallel_embedding", "load_model_on_cpu"),
        ("int8", "int4"),
        ("nemo_ckpt_path", "gpt_variant", "calib_dataset", "dataset_cache_dir", "log_level"),
    ),
    "phi": Family(
        ("PhiForCausalLM", "Phi3ForCausalLM", "PhiMoEForCausalLM"),
        ("moe_tp_size", "moe_ep_size"),
        (),
        ("int8", "int4"),
        pipeline=False,
    ),
}


def main(family: str) -> None:
    """Convert, as the script of this family; Gemma's is one of its own."""
    logs.announce()
    say(version("tensorrt_llm"))
    arguments = _gemma_arguments() if family == "gemma" else _arguments(FAMILIES[family])
    started = time.monotonic()
    _check(family, arguments)
    obey("convert")
    say("Loading checkpoint shards: 100%|##########| 1/1")
    config = pretrained_config(
        arguments.model_dir,
        dtype=arguments.dtype,
        tp_size=arguments.tp_size,
        pp_size=arguments.pp_size,
        quant_algo=_quant_algo(arguments),
        kv_cache_quant_algo=_kv_cache_quant_algo(arguments),
        group_size=getattr(arguments, "group_size", 128),
    )
    write_checkpoint(arguments.model_dir, Path(arguments.output_dir), config)
    say(f"Total time of converting checkpoints: {logs.duration(started)}")


def _arguments(family: Family) -> argparse.Namespace:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--model_dir", required=True)
    parser.add_argument("--output_dir", default="tllm_checkpoint")
    parser.add_argument("--dtype", default="auto", choices=_DTYPES)
    parser.add_argument("--use_weight_only", action="store_true")
    parser.add_argument(
        "--weight_only_precision",
        nargs="?",
        const="int8",
        default="int8",
        choices=family.precisions,
    )
    for name in ("tp_size", "pp_size", "workers"):
        parser.add_argument(f"--{name}", type=int, default=1)
    for name in family.numbers:
        parser.add_argument(f"--{name}", type=int, default=128 if name == "group_size" else -1)
    for name in family.switches:
        parser.add_argument(f"--{name}", action="store_true")
    for name in family.paths:
        parser.add_argument(f"--{name}")
    if "per_channel" in family.switches:
        parser.add_argument("--smoothquant", "-sq", type=float)
    return parser.parse_args()


def _gemma_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--ckpt-type", choices=("jax", "keras", "torch", "hf"))
    parser.add_argument("--model-dir", "--model_dir", required=True)
    parser.add_argument("--output-model-dir", "--output_dir", dest="output_dir", required=True)
    parser.add_argument("--world-size", type=int, default=1, dest="tp_size")
    parser.add_argument("--dtype", default="auto", choices=_DTYPES)
    parser.add_argument("--use_weight_only", action="store_true")
    parser.add_argument(
        "--weight_only_precision",
        "--use-weight-only-with-precision",
        choices=("int8", "int4", "w4a8_awq", "w4a16_awq"),
    )
    parser.add_argument("--use-int8-weight-only-embedding", action="store_true")
    parser.add_argument("--enable_fp8", action="store_true", dest="use_fp8")
    parser.add_argument("--fp8_kv_cache", action="store_true")
    parser.add_argument("--quant_ckpt_path")
    parser.add_argument("--calib_dataset", default="ccdv/cnn_dailymail")
    parser.add_argument("--use_smooth_quant", action="store_true")
    parser.add_argument("--int8_kv_cache", "--calibrate_kv_cache", "-kv", action="store_true")
    parser.add_argument("--per_channel", action="store_true")
    parser.add_argument("--per_token", action="store_true")
    parser.add_argument("--smoothquant", "--use_smooth_quant_plugin", "-sq", type=float)
    parser.add_argument("--tokenizer_dir")
    parser.add_argument("--load_model_on_cpu", action="store_true")
    parser.set_defaults(pp_size=1)
    return parser.parse_args()


def _check(family: str, arguments: argparse.Namespace) -> None:
    architecture = architecture_of(arguments.model_dir)
    if family == "gemma":
        if arguments.ckpt_type is None:
            raise KeyError(None)  # the script looks its parser up by the type
        assert architecture.startswith("Gemma"), "Invalid model type"
        return
    assert architecture in FAMILIES[family].architectures, "Invalid model type"
    if not FAMILIES[family].pipeline:
        assert arguments.pp_size == 1, "Pipeline parallelism is not supported."


def _quant_algo(arguments: argparse.Namespace) -> str | None:
    if arguments.use_weight_only:
        return _WEIGHT_ONLY[arguments.weight_only_precision]
    if getattr(arguments, "use_nvfp4", False):
        return "NVFP4"
    if getattr(arguments, "use_fp8", False):
        return "FP8"
    if getattr(arguments, "smoothquant", None) is None:
        return None
    return _SMOOTHED[arguments.per_channel, arguments.per_token]


def _kv_cache_quant_algo(arguments: argparse.Namespace) -> str | None:
    if getattr(arguments, "fp8_kv_cache", False):
        return "FP8"
    return "INT8" if getattr(arguments, "int8_kv_cache", False) else None
