"""`shed nodes`, `cordon`, `uncordon`, `drain` and `remove-node`: the GPU hosts, for operators."""

from itertools import groupby
from typing import Annotated, Final

import typer

from engineshed.cli.client import Client, Json, find_connection
from engineshed.cli.naming import node_id
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
from engineshed.cli.progress import wait_for_drain

NODES: Final = "/v0/nodes"

_HEARD: Final = ("joined", "cordoned", "draining")

Reference = Annotated[
    str, typer.Argument(metavar="NODE", help="Its id, or the host's name if that is unique.")
]
Reason = Annotated[str, typer.Option(help="Why, for those who read the events later.")]

_NODES: list[Column] = [
    ("NODE", lambda item: item["node_id"]),
    ("STATUS", lambda item: colored(item["status"])),
    ("HOST", lambda item: item["hostname"]),
    ("REGION", lambda item: item["region"]),
    (
        "GPUS",
        lambda item: (
            f"{_free(item)}/{item['gpu_count']} free {item['gpu_type']}"
            + (" (simulated)" if item["simulated"] else "")
        ),
    ),
    ("BACK ENDS", lambda item: ", ".join(item["backends"])),
    ("REASON", lambda item: item["status_reason"]),
    ("HEARD", lambda item: f"{age(item['heard_at'])} ago" if item["heard_at"] else ""),
]
_HOLDERS: list[Column] = [
    ("NODE", lambda item: item["node_id"]),
    ("GPUS", lambda item: ",".join(map(str, item["gpus"]))),
    ("REPLICA", lambda item: item["replica_id"]),
    ("ENDPOINT", lambda item: item["endpoint_id"]),
    ("ORGANIZATION", lambda item: item["org_id"]),
]


def nodes(output: Output = Format.TEXT) -> None:
    """Show the GPU hosts and who holds their GPUs (operators)."""
    found = Client(find_connection()).list(NODES)
    print_rows(found, _NODES, output)
    holders = [holder for node in found for holder in _holders(node)]
    if holders and output is Format.TEXT:
        out.print()
        print_rows(holders, _HOLDERS, output)


def cordon(node: Reference, reason: Reason = "", output: Output = Format.TEXT) -> None:
    """Give a host no new replicas; those it has stay (operators).

    On a host that is being drained, it ends the drain: what is not yet being replaced stays.
    """
    print_object(_order(node, "cordon", reason), output)


def uncordon(node: Reference, output: Output = Format.TEXT) -> None:
    """Let a host take replicas again, after a cordon or a drain (operators).

    What a drain is replacing already is replaced all the same.
    """
    print_object(_order(node, "uncordon"), output)


def drain(
    node: Reference,
    reason: Reason = "",
    wait: Annotated[
        bool, typer.Option("--wait", help="Return when no replica is left on it.")
    ] = False,
    output: Output = Format.TEXT,
) -> None:
    """Empty a host: its replicas are replaced elsewhere, and no request fails (operators).

    Each replica serves until its replacement is ready, so a drain waits while there is no room
    elsewhere. `shed uncordon` ends it.
    """
    drained = _order(node, "drain", reason)
    if wait:
        drained = wait_for_drain(Client(find_connection()), drained["node_id"], err)
    print_object(drained, output)


def remove_node(
    node: Reference,
    force: Annotated[
        bool,
        typer.Option(
            "--force", help="Though replicas are on it: they count as gone. If it is off for good."
        ),
    ] = False,
    reason: Reason = "",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    output: Output = Format.TEXT,
) -> None:
    """Take a host out of the fleet (operators).

    Stop its agent first: an agent that connects joins again.
    """
    client = Client(find_connection())
    found = client.get(f"{NODES}/{node_id(client, node)}")
    if found["status"] in _HEARD:
        err.print("Its agent was heard lately: while it runs, it joins again. Stop it first.")
    if not yes:
        typer.confirm(f"Remove {found['hostname']} ({found['node_id']})?", abort=True)
    query = {"force": "true" if force else "false", **({"reason": reason} if reason else {})}
    print_object(client.delete(f"{NODES}/{found['node_id']}", **query), output)


def _order(reference: str, verb: str, reason: str = "") -> Json:
    client = Client(find_connection())
    body = {"reason": reason} if reason else None
    return client.post(f"{NODES}/{node_id(client, reference)}/{verb}", body)


def _free(node: Row) -> int:
    return sum(gpu["replica_id"] is None for gpu in node["gpus"])


def _holders(node: Row) -> list[Json]:
    """Return who holds GPUs of a node, each with all that it holds."""
    taken = [gpu for gpu in node["gpus"] if gpu["replica_id"]]
    by_replica = groupby(
        sorted(taken, key=lambda gpu: str(gpu["replica_id"])), key=lambda gpu: gpu["replica_id"]
    )
    held = [list(gpus) for _, gpus in by_replica]
    return [
        {**gpus[0], "node_id": node["node_id"], "gpus": [gpu["index"] for gpu in gpus]}
        for gpus in held
    ]
