"""`shed estimate`: whether a model fits on GPUs, before anything is deployed."""

from typing import Annotated

import typer
from rich.text import Text

from engineshed.cli.client import Client, Json, find_connection
from engineshed.cli.endpoints import ENDPOINTS
from engineshed.cli.output import Format, Output, out, print_json, print_rows
from engineshed.cli.serving import (
    KvCacheFraction,
    MaxBatchSize,
    MaxBatchTokens,
    MaxContext,
    Precision,
    Quantization,
    serving,
)

_GIB = 2**30


def estimate(
    model: Annotated[
        str, typer.Argument(help="A template (see: shed templates), or a checkpoint's id.")
    ],
    flavor: Annotated[str, typer.Option(help="The template's variant.")] = "",
    checkpoint: Annotated[
        str, typer.Option(help="What to serve in the template's way: a checkpoint's id.")
    ] = "",
    gpu_type: Annotated[str, typer.Option(help="e.g. h100-sxm; default: the only one.")] = "",
    gpu_count: Annotated[
        int,
        typer.Option(
            "--gpu-count", "--gpus", min=0, help="GPUs of each replica; default: the fewest."
        ),
    ] = 0,
    region: Annotated[str, typer.Option(help="Default: the only one.")] = "",
    max_context: MaxContext = 0,
    precision: Precision = "",
    quantization: Quantization = "",
    max_batch_size: MaxBatchSize = 0,
    max_batch_tokens: MaxBatchTokens = 0,
    kv_cache_fraction: KvCacheFraction = 0.0,
    output: Output = Format.TEXT,
) -> None:
    """Say whether a model fits on its GPUs, and what would fit. Creates nothing.

    It needs the headers of the weights only, so it works while a checkpoint is still being
    registered. Simulated GPUs count as those that they stand for. Once a replica of just this has
    run, what was measured there counts instead. The exit status is 1 where it does not fit.
    """
    kind = "checkpoint_id" if model.startswith("ckpt_") else "model_name"
    options = {
        "flavor_name": flavor,
        "gpu_type": gpu_type,
        "gpu_count": gpu_count,
        "region": region,
    }
    if checkpoint:
        options["checkpoint_id"] = checkpoint
    body: Json = {key: value for key, value in options.items() if value} | {kind: model}
    body["serving"] = serving(
        max_context, precision, quantization, max_batch_size, max_batch_tokens, kv_cache_fraction
    )
    found = Client(find_connection()).post(f"{ENDPOINTS}:estimate", body)
    if output is Format.JSON:
        print_json(found)
    else:
        _show(found)
    raise typer.Exit(0 if found["fits"] else 1)


def _show(found: Json) -> None:
    fits = Text("it fits", "green") if found["fits"] else Text("it does not fit", "red")
    where = f" on {found['gpu_count']}x {found['gpu_type']}: each GPU needs about "
    there = f"{_gib(found['needed_bytes'])} of {_gib(found['gpu_memory_bytes'])}"
    how = ", by what was measured" if found["measured"] else ", as estimated"
    out.print(Text.assemble(fits, where, there, how), soft_wrap=True)
    rows = [
        *_fixed(found),
        ("a token", f"{found['token_bytes'] / 1024:.0f} KiB"),
        ("room for", f"{found['max_tokens']:,} tokens, of all requests together"),
        ("needed", f"{found['needed_context']:,} tokens, of one request"),
    ]
    print_rows(
        [{"what": what, "size": size} for what, size in rows],
        [("EACH GPU", lambda row: row["what"]), ("", lambda row: row["size"])],
        Format.TEXT,
    )
    for other in found["alternatives"]:
        changes = (
            ("--gpus", other["gpu_count"], found["gpu_count"]),
            *(
                (f"--{name.replace('_', '-')}", value, found["serving"][name])
                for name, value in other["serving"].items()
            ),
        )
        words = [f"{name} {new}" for name, new, old in changes if new != old]
        needed = f"it fits with {' '.join(words)}: {_gib(other['needed_bytes'])}"
        out.print(needed, markup=False, highlight=False, soft_wrap=True)


def _fixed(found: Json) -> list[tuple[str, str]]:
    """Return what it takes whatever is asked of it; what was measured was measured in one."""
    parts = [found["weight_bytes"], found["activation_bytes"], found["reserved_bytes"]]
    if found["measured"]:
        return [("weights and engine", f"{_gib(sum(parts))}, measured")]
    return list(zip(("weights", "engine", "CUDA"), map(_gib, parts), strict=True))


def _gib(size: int) -> str:
    return f"{size / _GIB:.1f} GiB"
