"""`shed endpoints …`, and finding an endpoint by what a person would call it."""

from collections.abc import Iterator
from typing import Annotated, Final

import typer

from engineshed.cli.client import Client, Json, find_connection
from engineshed.cli.durations import METAVAR, seconds
from engineshed.cli.naming import find_named
from engineshed.cli.output import (
    Column,
    Format,
    Output,
    Row,
    age,
    colored,
    err,
    out,
    print_object,
    print_rows,
)
from engineshed.cli.progress import wait_for_endpoint, wait_for_rollout
from engineshed.cli.serving import (
    KvCacheFraction,
    MaxBatchSize,
    MaxBatchTokens,
    MaxContext,
    Precision,
    Quantization,
    serving,
)

ENDPOINTS = "/v0/dedicated_endpoints"

app = typer.Typer(
    no_args_is_help=True, help="List, inspect, change, stop, restart and delete endpoints."
)

Reference = Annotated[
    str, typer.Argument(metavar="ENDPOINT", help="Its id, routing key, or name if that is unique.")
]
Wait = Annotated[bool, typer.Option("--wait", help="Return when it is done.")]

# Options of commands that say how many replicas an endpoint has.
MIN_REPLICAS: Final = typer.Option(
    "--min-replicas",
    "--replicas",
    min=0,
    help="Replicas to keep running; 0: none while nobody uses it.",
)
MAX_REPLICAS: Final = typer.Option(min=1, help="What load may add up to.")
IDLE_AFTER: Final = typer.Option(
    parser=seconds,
    metavar=METAVAR,
    help="With --min-replicas 0: how long after the last request its last replica goes, e.g. 5m.",
)
WAKE_TIMEOUT: Final = typer.Option(
    parser=seconds,
    metavar=METAVAR,
    help="With --min-replicas 0: how long a request is held until a replica is ready, e.g. 60s; "
    "then it is answered 503. 0: not at all.",
)

_COLUMNS: list[Column] = [
    ("ENDPOINT", lambda item: item["endpoint_id"]),
    ("NAME", lambda item: item["name"]),
    ("STATUS", lambda item: colored(item["status"])),
    ("READY", lambda item: _ready(item)),
    ("GPUS", lambda item: f"{item['gpu_count']}x {item['gpu_type']}"),
    ("ROUTING KEY", lambda item: item["routing_key"]),
    ("AGE", lambda item: age(item["created_at"])),
]


def find(client: Client, reference: str) -> Json:
    """Return the endpoint that `reference` names.

    Raises:
        ApiError: there is none, or the name fits several.
    """
    if reference.startswith("ep_"):
        return client.get(f"{ENDPOINTS}/{reference}")
    return find_named(client.list(ENDPOINTS), reference, "endpoint", "name", "routing_key")


@app.command("list")
def list_endpoints(
    output: Output = Format.TEXT,
    terminated: Annotated[bool, typer.Option(help="Show terminated ones too.")] = False,
) -> None:
    """Show all endpoints of the organization."""
    client = Client(find_connection())
    rows = client.list(ENDPOINTS, show_terminated=str(terminated).lower())
    print_rows(rows, _COLUMNS, output)


@app.command("get")
def get_endpoint(endpoint: Reference, output: Output = Format.TEXT) -> None:
    """Show one endpoint with its replicas."""
    show(find(Client(find_connection()), endpoint), output)


@app.command("stop")
def stop_endpoint(endpoint: Reference, wait: Wait = False, output: Output = Format.TEXT) -> None:
    """Drain an endpoint and release its GPUs; it can be restarted."""
    _act(endpoint, "stop", "stopped" if wait else None, output)


@app.command("restart")
def restart_endpoint(endpoint: Reference, wait: Wait = False, output: Output = Format.TEXT) -> None:
    """Start a stopped endpoint again, from the same checkpoint and configuration."""
    _act(endpoint, "restart", "running" if wait else None, output)


@app.command("update")
def update_endpoint(
    endpoint: Reference,
    checkpoint: Annotated[str, typer.Option(help="Serve this one: ckpt_….")] = "",
    gpu_type: Annotated[str, typer.Option(help="e.g. h100-sxm.")] = "",
    gpu_count: Annotated[
        int, typer.Option("--gpu-count", "--gpus", min=0, help="GPUs of each replica.")
    ] = 0,
    replicas: Annotated[int | None, MIN_REPLICAS] = None,
    max_replicas: Annotated[int | None, MAX_REPLICAS] = None,
    idle_after: Annotated[float | None, IDLE_AFTER] = None,
    wake_timeout: Annotated[float | None, WAKE_TIMEOUT] = None,
    max_context: MaxContext = 0,
    precision: Precision = "",
    quantization: Quantization = "",
    max_batch_size: MaxBatchSize = 0,
    max_batch_tokens: MaxBatchTokens = 0,
    kv_cache_fraction: KvCacheFraction = 0.0,
    name: Annotated[str, typer.Option(help="What to call it.")] = "",
    description: Annotated[str, typer.Option(help="Your text about it.")] = "",
    recreate: Annotated[
        bool, typer.Option("--recreate", help="Stop the old replicas first: nothing serves then.")
    ] = False,
    wait: Wait = False,
    output: Output = Format.TEXT,
) -> None:
    """Change what is given; the rest stays.

    Another checkpoint, other GPUs or serving parameters replace the replicas one by one, and each
    old one serves until its replacement is ready. If the new ones cannot be served, the old ones
    stay.

    With --min-replicas 0 it is idle and holds no GPU while nobody uses it: see shed deploy --help.
    """
    client = Client(find_connection())
    found = find(client, endpoint)
    body = _given(
        checkpoint_id=checkpoint,
        gpu_type=gpu_type,
        gpu_count=gpu_count,
        name=name,
        description=description,
        scaling=scaling(
            replicas,
            _most(found, replicas) if max_replicas is None else max_replicas,
            idle_after,
            wake_timeout,
        ),
        serving=serving(
            max_context,
            precision,
            quantization,
            max_batch_size,
            max_batch_tokens,
            kv_cache_fraction,
        ),
    )
    if not body:
        raise typer.BadParameter("say what to change; see --help")
    if recreate:
        body["update_strategy"] = "recreate"
    changed = client.patch(f"{ENDPOINTS}/{found['endpoint_id']}", body)
    if wait:
        changed = wait_for_rollout(client, found["endpoint_id"], err)
    show(changed, output)


@app.command("rollback")
def roll_back_endpoint(
    endpoint: Reference, wait: Wait = False, output: Output = Format.TEXT
) -> None:
    """Go back to what ran before the change that is under way or failed."""
    client = Client(find_connection())
    endpoint_id = find(client, endpoint)["endpoint_id"]
    changed = client.post(f"{ENDPOINTS}/{endpoint_id}/rollback")
    if wait:
        changed = wait_for_rollout(client, endpoint_id, err)
    show(changed, output)


@app.command("delete")
def delete_endpoint(
    endpoint: Reference,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    output: Output = Format.TEXT,
) -> None:
    """Terminate an endpoint for good. Its history stays readable."""
    client = Client(find_connection())
    found = find(client, endpoint)
    if not yes:
        typer.confirm(f"Terminate {found['name']} ({found['endpoint_id']}) for good?", abort=True)
    show(client.delete(f"{ENDPOINTS}/{found['endpoint_id']}"), output)


def show(endpoint: Json, output: Format) -> None:
    """Print an endpoint."""
    if output is Format.TEXT:
        endpoint = endpoint | {"ready": _ready(endpoint)}
    print_object(endpoint, output)


def scaling(
    replicas: int | None,
    max_replicas: int | None,
    idle_after: float | None,
    wake_timeout: float | None,
) -> Json:
    """Return what is said of scaling, as the API has it."""
    said = {
        "min_replicas": replicas,
        "max_replicas": max_replicas,
        "idle_after": idle_after,
        "wake_timeout": wake_timeout,
    }
    return {name: value for name, value in said.items() if value is not None}


def _given(**fields: object) -> Json:
    """Return the fields that are not empty."""
    return {key: value for key, value in fields.items() if value}


def _most(endpoint: Json, replicas: int | None) -> int | None:
    """Return up to how many replicas it may have: one of a fixed number keeps to that."""
    if replicas is None:
        return None
    before = endpoint["scaling"]
    if before["max_replicas"] == before["min_replicas"]:
        return max(replicas, 1)
    return max(replicas, int(before["max_replicas"]))


def explain(endpoint: Reference, output: Output = Format.TEXT) -> None:
    """Say why an endpoint's replicas are where they are, and what it waits for."""
    client = Client(find_connection())
    endpoint_id = find(client, endpoint)["endpoint_id"]
    found = client.get(f"{ENDPOINTS}/{endpoint_id}/explanation")
    if output is not Format.TEXT:
        print_object(found, output)
        return
    for line in _explained(found):
        out.print(line, markup=False, highlight=False, soft_wrap=True)


def _explained(found: Json) -> Iterator[str]:
    """Yield an explanation in lines."""
    reason = f": {found['status_reason']}" if found["status_reason"] else ""
    yield f"{found['endpoint_id']} is {found['status']}{reason}"
    for replica in found["replicas"]:
        yield f"{replica['replica_id']} is {replica['status']}"
        yield f"  placed on {replica['node_id']} at {replica['placed_at']}"
        compared = replica["candidate_count"]
        yield f"  the best of {compared} compared at last, by {replica['policy_version']}"
        for candidate in replica["candidates"]:
            yield f"  {candidate['score']:>12,.0f}  {candidate['node_id']}"
        yield from _rejected(replica)
    if found["wait"] is not None:
        yield from _explained_wait(found["wait"])
    if found["scaling"] is not None:
        yield from _explained_scaling(found["scaling"])


def _explained_wait(wait: Json) -> Iterator[str]:
    missing = wait["missing_replicas"]
    yield f"{missing} replica{'s are' if missing > 1 else ' is'} not placed: {wait['reason']}"
    if wait["queue_position"]:
        of = f" of {wait['queue_length']}" if wait["queue_length"] else ""
        yield f"  place in the queue: {wait['queue_position']}{of}"
    if wait["retry_at"]:
        yield f"  tried again at {wait['retry_at']}"
    if wait["nominated_node_id"]:
        yield f"  kept for it: {wait['nominated_node_id']}"
    yield from _rejected(wait)


def _explained_scaling(scaling: Json) -> Iterator[str]:
    yield f"load scales it to {scaling['target']:g} requests in flight for each replica"
    yield f"  now: {scaling['reason']}"
    load = scaling["load"]
    if load is not None:
        high = "?" if load["high"] is None else f"{load['high']:.1f}"
        yield f"  in flight: {load['in_flight']:.1f}, lately {load['low']:.1f} to {high}"
        if load["idle_seconds"]:
            yield f"  without a request for {load['idle_seconds']:.0f} s"
    last = scaling["last"]
    if last is not None:
        yield f"  changed from {last['replicas_before']} at {last['decided_at']}: {last['reason']}"


def _rejected(item: Json) -> Iterator[str]:
    for name, nodes in item["rejected"].items():
        yield f"  turned away by {name.replace('_', ' ')}: {nodes}"


def _act(reference: str, verb: str, wanted: str | None, output: Format) -> None:
    client = Client(find_connection())
    endpoint_id = find(client, reference)["endpoint_id"]
    endpoint = client.post(f"{ENDPOINTS}/{endpoint_id}/{verb}")
    if wanted:
        endpoint = wait_for_endpoint(client, endpoint_id, wanted, err)
    show(endpoint, output)


def _ready(endpoint: Row) -> str:
    ready = sum(replica["status"] == "ready" for replica in endpoint["replicas"])
    return f"{ready}/{endpoint['wanted_replicas']}"
