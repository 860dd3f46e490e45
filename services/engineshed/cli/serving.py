"""How a model is served: the options of commands that say it, and how the API has it."""

from typing import Annotated, TypeAlias

import typer

from engineshed.cli.client import Json

MaxContext: TypeAlias = Annotated[
    int, typer.Option(min=0, show_default=False, help="Longest prompt and answer.")
]
Precision: TypeAlias = Annotated[str, typer.Option(help="float32, bfloat16 or float16.")]
Quantization: TypeAlias = Annotated[
    str,
    typer.Option(
        help="How weights are made smaller: fp8, int8_sq, int8_wo, int4_awq, w4a8_awq or nvfp4. "
        "Needs TensorRT-LLM, and some of them newer GPUs."
    ),
]
MaxBatchSize: TypeAlias = Annotated[
    int,
    typer.Option(
        min=0,
        max=4096,
        show_default=False,
        help="Requests that the engine works on at once; others wait for one of them to end.",
    ),
]
MaxBatchTokens: TypeAlias = Annotated[
    int,
    typer.Option(
        min=0,
        max=1_000_000,
        show_default=False,
        help="Tokens, of prompts and answers, that one step of the engine takes, e.g. 8192: fewer "
        "leave more memory for keys and values, more take in long prompts sooner. Needs "
        "TensorRT-LLM.",
    ),
]
KvCacheFraction: TypeAlias = Annotated[
    float,
    typer.Option(
        min=0,
        max=1,
        show_default=False,
        help="Share that keys and values take of the GPU memory which the loaded engine leaves, "
        "e.g. 0.9: more hold more tokens at once, less keeps a reserve.",
    ),
]


def serving(
    max_context: int,
    precision: str,
    quantization: str,
    max_batch_size: int,
    max_batch_tokens: int,
    kv_cache_fraction: float,
) -> Json:
    """Return what is said of serving, as the API has it; zero and empty are not said."""
    said = {
        "max_context": max_context,
        "precision": precision,
        "quantization": quantization,
        "max_batch_size": max_batch_size,
        "max_batch_tokens": max_batch_tokens,
        "kv_cache_fraction": kv_cache_fraction,
    }
    return {name: value for name, value in said.items() if value}
