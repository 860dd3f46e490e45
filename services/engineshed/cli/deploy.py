"""`shed deploy` and `shed chat`: from a checkpoint to an answer."""

import sys
from http import HTTPStatus
from pathlib import Path
from typing import Annotated

import typer

from engineshed.cli.catalog import name_of, source_uri
from engineshed.cli.client import ApiError, Client, Json, find_connection
from engineshed.cli.endpoints import (
    ENDPOINTS,
    IDLE_AFTER,
    MAX_REPLICAS,
    MIN_REPLICAS,
    WAKE_TIMEOUT,
    Reference,
    Wait,
    find,
    scaling,
    show,
)
from engineshed.cli.output import Format, Output, err, out
from engineshed.cli.progress import wait_for_checkpoint, wait_for_endpoint
from engineshed.cli.serving import (
    KvCacheFraction,
    MaxBatchSize,
    MaxBatchTokens,
    MaxContext,
    Precision,
    Quantization,
    serving,
)


def deploy(
    model: Annotated[
        str,
        typer.Argument(
            help="A template (see: shed templates), a checkpoint's id, or a directory to register."
        ),
    ],
    name: Annotated[str, typer.Option(help="What to call the endpoint.")] = "",
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
    replicas: Annotated[int, MIN_REPLICAS] = 1,
    max_replicas: Annotated[int | None, MAX_REPLICAS] = None,
    idle_after: Annotated[float | None, IDLE_AFTER] = None,
    wake_timeout: Annotated[float | None, WAKE_TIMEOUT] = None,
    max_context: MaxContext = 0,
    precision: Precision = "",
    quantization: Quantization = "",
    max_batch_size: MaxBatchSize = 0,
    max_batch_tokens: MaxBatchTokens = 0,
    kv_cache_fraction: KvCacheFraction = 0.0,
    fail_if_full: Annotated[
        bool, typer.Option("--fail-if-full", help="Refuse rather than queue when GPUs are taken.")
    ] = False,
    wait: Wait = False,
    output: Output = Format.TEXT,
) -> None:
    """Serve a model on GPUs reserved for it.

    With --max-replicas above --min-replicas load decides how many run. With --min-replicas 0 none
    does while nobody uses it: it is idle and holds no GPU. The next request wakes it, and is held
    until a replica is ready.
    """
    client = Client(find_connection())
    body: Json = {
        "name": name or (name_of(model) if _is_source(model) else model.rpartition("/")[2]),
        "scaling": scaling(replicas, max_replicas or max(replicas, 1), idle_after, wake_timeout),
        **_model(client, model),
    }
    optional = {
        "checkpoint_id": checkpoint,
        "flavor_name": flavor,
        "gpu_type": gpu_type,
        "gpu_count": gpu_count,
        "region": region,
        "on_no_capacity": "fail" if fail_if_full else "",
    }
    body |= {key: value for key, value in optional.items() if value}
    body["serving"] = serving(
        max_context, precision, quantization, max_batch_size, max_batch_tokens, kv_cache_fraction
    )
    endpoint = client.post(ENDPOINTS, body)
    if wait:
        endpoint = wait_for_endpoint(client, endpoint["endpoint_id"], "running", err)
    show(endpoint, output)
    if endpoint["status"] == "idle":
        hint = f"It is idle; the first request wakes it: shed chat {endpoint['routing_key']} …"
        err.print(hint, markup=False, highlight=False, soft_wrap=True)


def chat(
    endpoint: Reference,
    question: Annotated[str, typer.Argument(help="What to ask; default: read it from stdin.")] = "",
    system: Annotated[str, typer.Option(help="A system message.")] = "",
    temperature: Annotated[float, typer.Option(min=0, max=2, help="0 is greedy.")] = 0.0,
    max_tokens: Annotated[int, typer.Option(min=0, help="Longest answer; 0: no limit.")] = 0,
) -> None:
    """Ask an endpoint, and print the answer as it comes."""
    client = Client(find_connection())
    model = _routing_key(client, endpoint)
    messages = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": question or sys.stdin.read().strip()})
    body: Json = {"model": model, "messages": messages, "temperature": temperature}
    if max_tokens:
        body["max_completion_tokens"] = max_tokens
    print_answer(client, body)


def print_answer(client: Client, body: Json) -> None:
    """Stream a chat completion to standard output."""
    for chunk in client.stream("/v1/chat/completions", {**body, "stream": True}):
        for choice in chunk["choices"]:
            out.print(
                choice["delta"].get("content") or "",
                end="",
                markup=False,
                highlight=False,
                soft_wrap=True,
            )
    out.print()


def _model(client: Client, model: str) -> Json:
    if model.startswith("ckpt_"):
        return {"checkpoint_id": model}
    if not _is_source(model):
        return {"model_name": model}
    body = {"name": name_of(model), "uri": source_uri(model)}
    checkpoint = client.post("/v0/checkpoints", body)
    wait_for_checkpoint(client, checkpoint["checkpoint_id"], err)
    return {"checkpoint_id": checkpoint["checkpoint_id"]}


def _is_source(model: str) -> bool:
    """Tell a URI or a path from a template's name, which has a slash too."""
    looks_so = "://" in model or model.startswith((".", "/", "~"))
    return looks_so or (Path(model) / "config.json").is_file()


def _routing_key(client: Client, reference: str) -> str:
    try:
        return str(find(client, reference)["routing_key"])
    except ApiError as error:
        if error.status == HTTPStatus.FORBIDDEN:
            return reference  # a token for inference alone may not look endpoints up
        raise
