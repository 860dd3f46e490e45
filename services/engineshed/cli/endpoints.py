"""`shed endpoints …`, and finding an endpoint by what a person would call it."""

from typing import Annotated

import typer

from engineshed.cli.client import Client, Json, find_connection
from engineshed.cli.naming import find_named
from engineshed.cli.output import (
    Column,
    Format,
    Output,
    Row,
    age,
    colored,
    err,
    print_object,
    print_rows,
)
from engineshed.cli.progress import wait_for_endpoint

ENDPOINTS = "/v0/dedicated_endpoints"

app = typer.Typer(no_args_is_help=True, help="List, inspect, stop, restart and delete endpoints.")

Reference = Annotated[
    str, typer.Argument(metavar="ENDPOINT", help="Its id, routing key, or name if that is unique.")
]
Wait = Annotated[bool, typer.Option("--wait", help="Return when it is done.")]

_COLUMNS: list[Column] = [
    ("ENDPOINT", lambda item: item["endpoint_id"]),
    ("NAME", lambda item: item["name"]),
    ("STATUS", lambda item: colored(item["status"])),
    ("READY", lambda item: f"{_ready(item)}/{item['scaling']['min_replicas']}"),
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
    print_object(find(Client(find_connection()), endpoint), output)


@app.command("stop")
def stop_endpoint(endpoint: Reference, wait: Wait = False, output: Output = Format.TEXT) -> None:
    """Drain an endpoint and release its GPUs; it can be restarted."""
    _act(endpoint, "stop", "stopped" if wait else None, output)


@app.command("restart")
def restart_endpoint(endpoint: Reference, wait: Wait = False, output: Output = Format.TEXT) -> None:
    """Start a stopped endpoint again, from the same checkpoint and configuration."""
    _act(endpoint, "restart", "running" if wait else None, output)


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
    print_object(client.delete(f"{ENDPOINTS}/{found['endpoint_id']}"), output)


def _act(reference: str, verb: str, wanted: str | None, output: Format) -> None:
    client = Client(find_connection())
    endpoint_id = find(client, reference)["endpoint_id"]
    endpoint = client.post(f"{ENDPOINTS}/{endpoint_id}/{verb}")
    if wanted:
        endpoint = wait_for_endpoint(client, endpoint_id, wanted, err)
    print_object(endpoint, output)


def _ready(endpoint: Row) -> int:
    return sum(replica["status"] == "ready" for replica in endpoint["replicas"])
