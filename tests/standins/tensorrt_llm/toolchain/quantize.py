"""quantize.py: calibrates with a data set, and writes a quantized intermediate checkpoint."""

import argparse
import json
import sys
from pathlib import Path
from typing import Final

from . import logs
from .checkpoints import pretrained_config, write_checkpoint
from .logs import say
from .orders import obey
from .texts import TEXTS

_FORMATS: Final = {
    "nvfp4": "NVFP4",
    "fp8": "FP8",
    "int8_sq": "W8A8_SQ_PER_CHANNEL",
    "int4_awq": "W4A16_AWQ",
    "w4a8_awq": "W4A8_AWQ",
    "int8_wo": "W8A16",
    "int4_wo": "W4A16",
    "full_prec": None,
}


def main() -> None:
    """Quantize a checkpoint."""
    logs.announce()
    arguments = _arguments()
    if arguments.model_dir is None:
        raise ValueError("One of source checkpoint (model_dir, nemo_ckpt_path) must be specified")
    obey("quantize")
    say(f"Initializing tokenizer from {arguments.model_dir}")
    if arguments.qformat != "full_prec":
        samples = min(_count_samples(arguments.calib_dataset), arguments.calib_size)
        say(f"Starting quantization... {samples} samples")
        say("Quantization done. Total time used: 0.01 s.")
    config = pretrained_config(
        arguments.model_dir,
        dtype=arguments.dtype,
        tp_size=arguments.tp_size,
        pp_size=arguments.pp_size,
        quant_algo=_FORMATS[arguments.qformat],
        kv_cache_quant_algo=arguments.kv_cache_dtype and arguments.kv_cache_dtype.upper(),
        group_size=arguments.awq_block_size,
    )
    write_checkpoint(arguments.model_dir, Path(arguments.output_dir), config)
    say(f"Quantized model exported to {arguments.output_dir} \nTotal time used 0.01 s.")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--model_dir")
    parser.add_argument("--output_dir", default="exported_model")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument(
        "--device_map", default="auto", choices=("auto", "sequential", "cpu", "gpu")
    )
    parser.add_argument("--calib_dataset", default="cnn_dailymail")
    parser.add_argument(
        "--dtype", default="auto", choices=("auto", "float16", "bfloat16", "float32")
    )
    parser.add_argument("--qformat", default="full_prec", choices=tuple(_FORMATS))
    parser.add_argument("--kv_cache_dtype", choices=("int8", "fp8"))
    sizes = {"calib_size": 512, "calib_max_seq_length": 512, "batch_size": 1, "awq_block_size": 128}
    for name, size in (sizes | {"tp_size": 1, "pp_size": 1, "cp_size": 1}).items():
        parser.add_argument(f"--{name}", type=int, default=size)
    parser.add_argument("--quantize_lm_head", action="store_true")
    parser.add_argument("--autoq_format")
    parser.add_argument("--auto_quantize_bits", type=float)
    parser.add_argument("--export_format", default="tensorrt_llm", choices=("tensorrt_llm", "hf"))
    return parser.parse_args()


def _count_samples(dataset: str) -> int:
    """Count the texts of a local data set; any other would have to come from the network."""
    folder = Path(dataset)
    if not folder.is_dir():
        say(TEXTS["network"].replace("cnn_dailymail", dataset), sys.stderr)
        sys.exit(1)
    texts: list[str] = []
    for path in sorted(folder.glob("*.json*")):
        lines = path.read_text(encoding="utf-8").splitlines()
        texts += [json.loads(line)["text"] for line in lines if line.strip()]
    tables = list(folder.glob("*.parquet"))
    if not texts and not tables:
        raise ValueError(f"No (supported) data files found in {dataset}")
    return len(texts) + len(tables)
