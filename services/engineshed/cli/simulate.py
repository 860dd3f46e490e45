"""`shed simulate`: what would move and who would wait, and whether the past comes out the same."""

import asyncio
from typing import Annotated, Final

import typer

from engineshed.cli.output import Format, Output

HELP: Final = (
    "Say what would happen, and change nothing (operators).\n\n"
    "The scheduler makes the very decisions that it would make, on a copy of the fleet as it is "
    "now: what moves where, who waits and for what, how full nodes are in the end. Changes can be "
    "repeated and combined; what happens anyway is not told as their consequence. Without any, "
    "just that is told.\n\n"
    "  shed simulate --drain gpu-7                can this host be emptied?\n"
    "  shed simulate --lose gpu-7 --lose gpu-8    what if both die?\n"
    "  shed simulate --add-nodes 1 --gpu-type h200 --gpus 8\n"
    "  shed simulate --min-replicas bot=4 --max-replicas bot=8\n"
    "  shed simulate --replay --since 1h          does the past come out the same?\n\n"
    "With --replay, the decisions of the past are made again from what they were made from, and "
    "compared: the exit status is 1 if any comes out otherwise.\n\n"
    "This asks the scheduler itself, at ENGINESHED_SCHEDULER_ADDRESS or in the stack on this "
    "machine."
)

_CHANGES: Final = "What is to be otherwise"
_REPLAY: Final = "Replay"

AddNodes = Annotated[
    int,
    typer.Option(
        min=0, max=1000, metavar="N", help="So many nodes join.", rich_help_panel=_CHANGES
    ),
]
GpuType = Annotated[
    str, typer.Option(help="The GPUs of those nodes, e.g. h200.", rich_help_panel=_CHANGES)
]
Gpus = Annotated[
    int,
    typer.Option(min=1, max=1024, help="How many each of them has.", rich_help_panel=_CHANGES),
]
Region = Annotated[
    str,
    typer.Option(
        help="Where they stand; to be said where there are several regions.",
        rich_help_panel=_CHANGES,
    ),
]
Drain = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NODE", help="It is drained: its id or its host's name.", rich_help_panel=_CHANGES
    ),
]
Lose = Annotated[
    list[str] | None,
    typer.Option(metavar="NODE", help="It dies with all that is on it.", rich_help_panel=_CHANGES),
]
MinReplicas = Annotated[
    list[str] | None,
    typer.Option(metavar="ENDPOINT=N", help="An endpoint's new minimum.", rich_help_panel=_CHANGES),
]
MaxReplicas = Annotated[
    list[str] | None,
    typer.Option(metavar="ENDPOINT=N", help="An endpoint's new maximum.", rich_help_panel=_CHANGES),
]
Replay = Annotated[
    bool, typer.Option("--replay", help="Make past decisions again.", rich_help_panel=_REPLAY)
]
Since = Annotated[
    str,
    typer.Option(
        help="Those made since: 10m, 2h, 3d ago, or a time; by default all that are kept.",
        rich_help_panel=_REPLAY,
    ),
]
Until = Annotated[
    str, typer.Option(help="Those made before, as with --since.", rich_help_panel=_REPLAY)
]


def simulate(
    add_nodes: AddNodes = 0,
    gpu_type: GpuType = "",
    gpus: Gpus = 8,
    region: Region = "",
    drain: Drain = None,
    lose: Lose = None,
    min_replicas: MinReplicas = None,
    max_replicas: MaxReplicas = None,
    replay: Replay = False,
    since: Since = "",
    until: Until = "",
    output: Output = Format.TEXT,
) -> None:
    """Tell what would happen; see HELP."""
    # Other commands need not wait for gRPC to be loaded.
    from engineshed.cli.replaying import tell_differences
    from engineshed.cli.what_if import WhatIf, tell_outcome

    what_if = WhatIf(
        add_nodes=add_nodes,
        gpu_type=gpu_type,
        gpus=gpus,
        region=region,
        drain=drain or [],
        lose=lose or [],
        min_replicas=bounds(min_replicas or []),
        max_replicas=bounds(max_replicas or []),
    )
    if bool(add_nodes) != bool(gpu_type):
        raise typer.BadParameter("--add-nodes and --gpu-type go together")
    if not replay:
        if since or until:
            raise typer.BadParameter("--since and --until go with --replay")
        asyncio.run(tell_outcome(what_if, output))
    elif what_if.changes:
        raise typer.BadParameter("--replay is about the past; ask what would be without it")
    elif asyncio.run(tell_differences(since, until, output)):
        raise typer.Exit(1)


def bounds(given: list[str]) -> dict[str, int]:
    """Return numbers by endpoint, from ENDPOINT=N.

    Raises:
        typer.BadParameter: one is not given so, or an endpoint twice.
    """
    found: dict[str, int] = {}
    for one in given:
        endpoint, _, number = one.rpartition("=")
        if not (endpoint and number.isascii() and number.isdigit()):
            raise typer.BadParameter(f"{one!r} is not ENDPOINT=N, as bot=4")
        if endpoint in found:
            raise typer.BadParameter(f"{endpoint} is there twice")
        found[endpoint] = int(number)
    return found
